// What multiclass_nms reads: scores in place, what their indices stand for, and what is kept so far.
#pragma once

#include "../widen.h"
#include "nms_suppress.cuh"

namespace pydet {
namespace {

constexpr unsigned kRowBlock = 256;

template <typename S>
using Place = std::conditional_t<sizeof(S) == 4, uint64_t, unsigned __int128>;

template <typename S>
__device__ Place<S> place_of(S score, unsigned index) {
  return Place<S>(descending_key(score)) << 32 | index;
}

__device__ inline uint64_t lowest_of_warp(uint64_t place) {
  for (int flip = 16; flip; flip >>= 1) place = min(place, __shfl_xor_sync(kAll, place, flip));
  return place;
}
__device__ inline unsigned __int128 lowest_of_warp(unsigned __int128 place) {
  for (int flip = 16; flip; flip >>= 1) {
    const uint64_t high = __shfl_xor_sync(kAll, static_cast<uint64_t>(place >> 64), flip);
    const uint64_t low = __shfl_xor_sync(kAll, static_cast<uint64_t>(place), flip);
    const unsigned __int128 other = static_cast<unsigned __int128>(high) << 64 | low;
    place = other < place ? other : place;
  }
  return place;
}

// [images, rows, classes]; the classes of a row lie side by side.
template <typename In>
struct ScoreView {
  using Score = decltype(widen(In()));

  const In* data;
  int64_t image_stride, row_stride;
  unsigned rows, classes;

  __device__ const In* of_row(int64_t image, unsigned row) const {
    return data + image * image_stride + row * row_stride;
  }
  __device__ Score at(int64_t image, unsigned index) const {
    return widen(of_row(image, index / classes)[index % classes]);
  }

  // visit(score, index) for the scores above the threshold in the share that one of `threads` has in an image. Scores
  // without gaps are read 16 bytes at a time, four times before the first is looked at.
  template <typename Visit>
  __device__ void for_each_above(Score threshold, int64_t image, unsigned thread, unsigned threads,
                                 const Visit& visit) const {
    constexpr unsigned kVector = 16 / sizeof(In), kAhead = 4;
    const In* const scores = data + image * image_stride;
    const unsigned total = rows * classes;
    const unsigned odd = static_cast<unsigned>(reinterpret_cast<uintptr_t>(scores) % 16 / sizeof(In));
    const unsigned head = odd == 0 ? 0 : min(kVector - odd, total);
    const unsigned vectors = row_stride == classes ? (total - head) / kVector : 0;
    const uint4* const aligned = reinterpret_cast<const uint4*>(scores + head);
    for (unsigned first = thread; first < vectors; first += kAhead * threads) {
      uint4 ahead[kAhead];
#pragma unroll
      for (unsigned a = 0; a < kAhead; ++a) {
        if (first + a * threads < vectors) ahead[a] = aligned[first + a * threads];
      }
      unsigned above = 0;
#pragma unroll
      for (unsigned a = 0; a < kAhead; ++a) {
        In values[kVector];
        memcpy(values, &ahead[a], sizeof(values));
#pragma unroll
        for (unsigned k = 0; k < kVector; ++k) {
          const bool is_above = first + a * threads < vectors && widen(values[k]) > threshold;
          above |= static_cast<unsigned>(is_above) << (a * kVector + k);
        }
      }
      for (; above; above &= above - 1) {
        const unsigned bit = static_cast<unsigned>(__ffs(static_cast<int>(above)) - 1);
        const unsigned index = head + (first + bit / kVector * threads) * kVector + bit % kVector;
        visit(widen(scores[index]), index);
      }
    }
    const unsigned in_vectors = vectors * kVector;
    for (unsigned i = thread; i < total - in_vectors; i += threads) {
      const unsigned index = i < head ? i : i + in_vectors;
      const Score score = at(image, index);
      if (score > threshold) visit(score, index);
    }
  }
};

// A warp a row: the best of its classes that are above the threshold, the first of equal ones, or NaN.
template <typename In, typename S>
__global__ void __launch_bounds__(kRowBlock)
    best_of_rows_kernel(ScoreView<In> scores, int64_t images, S threshold, S* best_scores, int* best_labels) {
  const int64_t warps = int64_t{gridDim.x} * (kRowBlock / 32), rows = images * scores.rows;
  for (int64_t row = int64_t{blockIdx.x} * (kRowBlock / 32) + threadIdx.x / 32; row < rows; row += warps) {
    const int64_t image = row / scores.rows;
    const In* const of_row = scores.of_row(image, static_cast<unsigned>(row - image * scores.rows));
    S best = std::numeric_limits<S>::quiet_NaN();
    unsigned label = ~0u;
    for (unsigned c = threadIdx.x % 32; c < scores.classes; c += 32) {
      const S score = widen(of_row[c]);
      if (!(score > threshold) || score <= best) continue;
      best = score;
      label = c;
    }
    for (int flip = 16; flip; flip >>= 1) {
      const S other = __shfl_xor_sync(kAll, best, flip);
      const unsigned other_label = __shfl_xor_sync(kAll, label, flip);
      if (other_label == ~0u || other < best || (other == best && other_label > label)) continue;
      best = other;
      label = other_label;
    }
    if (threadIdx.x % 32 > 0) continue;
    best_scores[row] = best;
    best_labels[row] = static_cast<int>(label);
  }
}

// What an index stands for, and its box: of the row, or of the row and the class.
template <typename T>
struct CandidateBoxes {
  const void* boxes;
  ScalarType type;
  unsigned rows, classes;
  bool per_class, agnostic;
  const int* labels;  // [images, rows] where each row has one candidate, its best class, or null

  __device__ unsigned row(unsigned index) const { return labels ? index : index / classes; }
  __device__ unsigned label(int64_t image, unsigned index) const {
    return labels ? static_cast<unsigned>(labels[image * rows + index]) : index % classes;
  }
  __device__ int64_t position(int64_t image, unsigned index) const {
    const int64_t position = image * rows + row(index);
    return per_class ? position * classes + label(image, index) : position;
  }
  __device__ int64_t segment(int64_t image, unsigned index) const { return agnostic ? 0 : label(image, index); }

  template <typename In>
  __device__ Box<T> load(int64_t position) const {
    const In* const b = static_cast<const In*>(boxes) + 4 * position;
    return {T(widen(b[0])), T(widen(b[1])), T(widen(b[2])), T(widen(b[3]))};
  }
  __device__ Box<T> box(int64_t image, unsigned index) const {
    const int64_t at = position(image, index);
    if (sizeof(T) == 4 && type == ScalarType::Half) return load<torch::headeronly::Half>(at);
    if (sizeof(T) == 4 && type == ScalarType::BFloat16) return load<torch::headeronly::BFloat16>(at);
    return load<T>(at);
  }
};

// What is kept of each image so far: [images, most].
template <typename T>
struct KeptBoxes {
  unsigned* indices;  // best first
  Box<T>* boxes;
  int64_t* segments;
  int64_t most;

  __device__ bool suppress(int64_t image, unsigned count, const Box<T>& box, int64_t segment,
                           const NmsRule<T>& rule) const {
    const T box_area = area(box);
    for (int64_t k = image * most; k < image * most + count; ++k) {
      if (segments[k] == segment && suppresses(boxes[k], area(boxes[k]), box, box_area, rule)) return true;
    }
    return false;
  }
};

}  // namespace
}  // namespace pydet
