// What the kernels of anchor_kmeans share, and its start by k-means++.
#pragma once

#include "../math/anchor_kmeans.h"
#include "block_sum.cuh"

namespace pydet {
namespace {

constexpr unsigned kThreads = 256;

// Of the boxes, a block each: as many as run at once, and few enough for a block to look through all.
inline int64_t most_parts() { return int64_t{8} * multiprocessors(); }

// n things in parts of nearly one size.
struct Parts {
  int64_t n, size;
  unsigned count;

  Parts(int64_t things, int64_t most) : n(things) {
    const int64_t parts = std::min((n + kThreads - 1) / kThreads, most);
    size = (n + parts - 1) / parts;
    count = static_cast<unsigned>((n + size - 1) / size);
  }
  PYDET_HD int64_t begin(int64_t part) const { return part * size; }
  PYDET_HD int64_t end(int64_t part) const { return (part + 1) * size < n ? (part + 1) * size : n; }
};

// Bits of positive numbers, in whose order they are; `smallest` is 0 where a number is not positive and finite.
struct Extremes {
  unsigned long long smallest, largest;
};

struct KMeansFacts {
  int exponent;     // boxes are scaled by 2^-exponent, so that the largest size is in [1/2, 1)
  bool valid;       // all sizes are
  bool enough;      // there are k different boxes
};

struct KMeansState {
  unsigned long long total;  // sum of the IoUs with the nearest centres
  long long best;            // the largest one before
  int changed, done;
};

struct KMeans {
  Parts parts, of_order;  // of the boxes as they lie, and sorted
  int64_t k;
  double unit;
  KMeansFacts* facts;
  Extremes* extremes;         // [parts]
  double2* shapes;            // [N] width and height, scaled
  double* iou;                // [N] with the nearest centre
  int* label;                 // [N] that centre
  long long* distances;       // [parts] sums of 1 - IoU
  uint32_t* drawn;            // [draws]
  unsigned long long* after;  // [draws] sum of the distances if this one is taken
  double *centres, *best;     // [2, k] widths and heights: now, and where the IoUs were largest
  KMeansState* states;        // [2] of an iteration and of the next, by turns
  const uint64_t* sorted;     // [2, N] bits of the widths and of the heights, ascending
  const uint32_t* order;      // [2, N] the boxes they belong to
  unsigned* counts;           // [2, k, parts of the order] boxes of a cluster

  __device__ double iou_with(int64_t i, double width, double height) const {
    const double2 box = shapes[i];
    return shape_iou(box.x, box.y, box.x * box.y, width, height, width * height);
  }
};

// Of value(i) for all i in [begin, end), a block together.
template <typename Value>
__device__ Extremes extremes_of(int64_t begin, int64_t end, const Value& value) {
  __shared__ Extremes all;
  if (threadIdx.x == 0) all = {~0ull, 0};
  __syncthreads();
  Extremes own{~0ull, 0};
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const Extremes other = value(i);
    own.smallest = min(own.smallest, other.smallest);
    own.largest = max(own.largest, other.largest);
  }
  atomicMin(&all.smallest, own.smallest);
  atomicMax(&all.largest, own.largest);
  __syncthreads();
  return all;
}

// Sum of value(i) for all i in [begin, end), a block together.
template <typename Value>
__device__ long long sum_of(int64_t begin, int64_t end, const Value& value) {
  long long own = 0, total;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) own += value(i);
  sum_before(own, total);
  return total;
}

// Where the sum of value(i), i in [begin, end), exceeds `target`, and how far below that the ones before it stay.
struct Found {
  int64_t index, rest;
};

template <typename Value>
__device__ Found find_in_sums(int64_t begin, int64_t end, long long target, const Value& value) {
  __shared__ Found found;
  if (threadIdx.x == 0) found = {begin, 0};
  __syncthreads();
  for (int64_t first = begin; first < end; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const long long own = i < end ? value(i) : 0;
    long long total;
    const long long before = sum_before(own, total);
    if (before <= target && target - before < own) found = {i, target - before};
    if (target < total) break;
    target -= total;
  }
  __syncthreads();
  const Found result = found;
  __syncthreads();
  return result;
}

__global__ void __launch_bounds__(kThreads) extremes_kernel(KMeans s, const double* wh) {  // [N, 2]
  const Extremes all = extremes_of(2 * s.parts.begin(blockIdx.x), 2 * s.parts.end(blockIdx.x), [&](int64_t i) {
    const bool valid = wh[i] > 0 && wh[i] <= std::numeric_limits<double>::max();
    const unsigned long long bits = valid ? static_cast<unsigned long long>(bits_of(wh[i])) : 0;
    return Extremes{bits, bits};
  });
  if (threadIdx.x == 0) s.extremes[blockIdx.x] = all;
}

__global__ void __launch_bounds__(kThreads) scale_kernel(KMeans s, const double* wh) {  // [N, 2]
  const Extremes all = extremes_of(0, s.parts.count, [&](int64_t part) { return s.extremes[part]; });
  const double smallest = __longlong_as_double(static_cast<long long>(all.smallest));
  const double largest = __longlong_as_double(static_cast<long long>(all.largest));
  const bool valid = smallest > 0 && comparable(smallest, largest);
  const int exponent = valid ? std::ilogb(largest) + 1 : 0;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    *s.facts = {exponent, valid, true};
    s.states[0] = {0, -1, 0, 0};
  }
  for (int64_t i = s.parts.begin(blockIdx.x) + threadIdx.x; i < s.parts.end(blockIdx.x); i += kThreads) {
    s.shapes[i] = make_double2(std::ldexp(wh[2 * i], -exponent), std::ldexp(wh[2 * i + 1], -exponent));
    s.iou[i] = -1;
    s.label[i] = -1;
  }
}

// A block draws a box in proportion to its distance from the nearest centre.
__global__ void __launch_bounds__(kThreads) draw_kernel(KMeans s, uint64_t random) {
  if (!s.facts->valid) return;
  const auto distance_of_part = [&](int64_t part) { return s.distances[part]; };
  const long long total = sum_of(0, s.parts.count, distance_of_part);
  random += kRandomStep * blockIdx.x;
  const int64_t target = random_below(random, total);
  const Found part = find_in_sums(0, s.parts.count, target, distance_of_part);
  const Found box = find_in_sums(s.parts.begin(part.index), s.parts.end(part.index), part.rest,
                                 [&](int64_t i) -> long long { return in_units(1.0 - s.iou[i], s.unit); });
  if (threadIdx.x != 0) return;
  s.drawn[blockIdx.x] = static_cast<uint32_t>(box.index);
  s.after[blockIdx.x] = 0;
  if (blockIdx.x == 0 && total == 0) s.facts->enough = false;
}

// Blocks [parts, draws].
__global__ void __launch_bounds__(kThreads) try_kernel(KMeans s) {
  if (!s.facts->valid) return;
  const double2 centre = s.shapes[s.drawn[blockIdx.y]];
  const long long total = sum_of(s.parts.begin(blockIdx.x), s.parts.end(blockIdx.x), [&](int64_t i) -> long long {
    return in_units(1.0 - maximum(s.iou_with(i, centre.x, centre.y), s.iou[i]), s.unit);
  });
  if (threadIdx.x == 0) atomicAdd(&s.after[blockIdx.y], static_cast<unsigned long long>(total));
}

// Centre c is the best of the boxes drawn, or without any box `first`.
__global__ void __launch_bounds__(kThreads) take_kernel(KMeans s, int64_t c, unsigned draws, int64_t first) {
  if (!s.facts->valid) return;
  unsigned best = 0;
  for (unsigned draw = 1; draw < draws; ++draw) {
    if (s.after[draw] < s.after[best]) best = draw;
  }
  const double2 centre = s.shapes[draws > 0 ? s.drawn[best] : first];
  const long long total = sum_of(s.parts.begin(blockIdx.x), s.parts.end(blockIdx.x), [&](int64_t i) -> long long {
    const double iou = maximum(s.iou_with(i, centre.x, centre.y), s.iou[i]);
    s.iou[i] = iou;
    return in_units(1.0 - iou, s.unit);
  });
  if (threadIdx.x != 0) return;
  s.distances[blockIdx.x] = total;
  if (blockIdx.x == 0) {
    s.centres[c] = centre.x;
    s.centres[s.k + c] = centre.y;
  }
}

// The random numbers are those that the CPU draws one after the other.
inline void start(const KMeans& s, uint64_t seed, cudaStream_t stream) {
  const dim3 parts(s.parts.count), block(kThreads);
  const unsigned draws = static_cast<unsigned>(draws_of_centre(s.k));
  launch(take_kernel, parts, block, 0, stream, s, 0, 0, random_below(seed, s.parts.n));
  for (int64_t c = 1; c < s.k; ++c, seed += kRandomStep * draws) {
    launch(draw_kernel, dim3(draws), block, 0, stream, s, seed);
    launch(try_kernel, dim3(s.parts.count, draws), block, 0, stream, s);
    launch(take_kernel, parts, block, 0, stream, s, c, draws, 0);
  }
}

}  // namespace
}  // namespace pydet
