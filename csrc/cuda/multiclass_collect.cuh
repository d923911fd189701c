// From decided candidates to the detections of each image.
#pragma once

#include "multiclass_select.cuh"

namespace pydet {
namespace {

constexpr unsigned kBlock = 1024;

// A block an image: its first kept candidates, and where the next round begins, of which they are the first candidates:
// nothing is better, so they are kept again.
template <typename T, typename In>
__global__ void __launch_bounds__(kBlock)
    collect_kernel(Selection<T, In> s, unsigned top_k, NmsBoxes<T> all, const uint32_t* order) {
  const int64_t image = blockIdx.x;
  auto& state = s.states[image];
  if (state.phase != Phase::selected) return;
  const NmsBoxes<T> boxes = all.of(image, s.capacity);
  const unsigned n = min(s.counts[image], top_k), most = static_cast<unsigned>(s.kept.most);
  unsigned kept = 0;
  for (unsigned first = 0; first < n && kept < most; first += kBlock) {
    const unsigned rank = first + threadIdx.x;
    const bool keeps = rank < n && boxes.states[rank] == kKept;
    unsigned here = 0;
    const unsigned slot = kept + sum_before<unsigned>(keeps, here);
    if (keeps && slot < most) {
      const unsigned index = order[image * s.capacity + rank];
      const int64_t at = image * s.kept.most + slot;
      s.kept.indices[at] = index;
      s.kept.boxes[at] = boxes.ranked[rank];
      s.kept.segments[at] = s.boxes.segment(image, index);
      s.keys[image * s.capacity + slot] = descending_key(s.scores.at(image, index));
      s.indices[image * s.capacity + slot] = index;
    }
    kept = min(kept + here, most);
  }
  __syncthreads();  // all have read the state
  if (threadIdx.x > 0) return;
  const bool finished = state.last || kept == most;
  state.kept = kept;
  state.done = state.end;
  s.counts[image] = finished ? 0 : kept;
  if (finished) {
    state.phase = Phase::finished;
  } else {
    state.search(state.done > s.guess() ? state.done : s.guess(), s.limit());
  }
}

// What no round has finished: the best candidate that nothing kept suppresses is kept, again and again. A block an
// image; each box that it keeps takes a pass over the scores.
template <typename T, typename In>
__global__ void __launch_bounds__(kScanBlock, 1) finish_kernel(Selection<T, In> s) {
  using P = Place<typename Selection<T, In>::S>;
  constexpr P kNone = ~P(0);
  __shared__ P of_warps[kScanBlock / 32];
  const int64_t image = blockIdx.x;
  if (s.states[image].phase == Phase::finished) return;
  P done = s.states[image].done;
  unsigned kept = s.states[image].kept;
  for (; kept < s.kept.most; ++kept) {
    P best = kNone;
    const auto look = [&](typename Selection<T, In>::S score, unsigned index) {
      const P place = place_of(score, index);
      if (place < done || place >= best) return;
      const Box<T> box = s.boxes.box(image, index);
      if (!s.kept.suppress(image, kept, box, s.boxes.segment(image, index), s.rule)) best = place;
    };
    s.scores.for_each_above(s.threshold, image, threadIdx.x, kScanBlock, look);
    best = lowest_of_warp(best);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
    __syncthreads();
    best = lowest_of_warp(of_warps[threadIdx.x % (kScanBlock / 32)]);
    if (best == kNone) break;
    if (threadIdx.x == 0) {
      const unsigned index = static_cast<unsigned>(best);
      const int64_t at = image * s.kept.most + kept;
      s.kept.indices[at] = index;
      s.kept.boxes[at] = s.boxes.box(image, index);
      s.kept.segments[at] = s.boxes.segment(image, index);
    }
    done = best + 1;
    __syncthreads();
  }
  if (threadIdx.x == 0) s.states[image].kept = kept;
}

// Values are copied as they are, two bytes at a time: the outputs have the dtypes of the inputs.
struct DetectionMemory {
  const uint16_t *boxes_in, *scores_in;
  uint16_t *boxes, *scores;  // [images, max_per_image, 4], [images, max_per_image]
  int64_t *labels, *rows;    // [images, max_per_image]
  int64_t* count;            // [images]
  int64_t max_per_image, image_stride, row_stride;
  int box_words, score_words;
};

__device__ inline void copy_words(uint16_t* to, const uint16_t* from, int words) {
  for (int word = 0; word < words; ++word) to[word] = from ? from[word] : uint16_t{0};
}

template <typename T, typename In>
__global__ void __launch_bounds__(kBlock) write_kernel(Selection<T, In> s, int64_t images, DetectionMemory m) {
  const int64_t at = int64_t{blockIdx.x} * kBlock + threadIdx.x, image = at / m.max_per_image;
  if (image >= images) return;
  const int64_t slot = at - image * m.max_per_image;
  const unsigned kept = s.states[image].kept;
  if (slot == 0) m.count[image] = kept;
  const uint16_t *box = nullptr, *score = nullptr;
  int64_t row = 0, label = -1;
  if (slot < kept) {
    const unsigned index = s.kept.indices[image * s.kept.most + slot];
    row = s.boxes.row(index);
    label = s.boxes.label(image, index);
    box = m.boxes_in + s.boxes.position(image, index) * m.box_words;
    score = m.scores_in + (image * m.image_stride + row * m.row_stride + label) * m.score_words;
  }
  copy_words(m.boxes + at * m.box_words, box, m.box_words);
  copy_words(m.scores + at * m.score_words, score, m.score_words);
  m.labels[at] = label;
  m.rows[at] = row;
}

}  // namespace
}  // namespace pydet
