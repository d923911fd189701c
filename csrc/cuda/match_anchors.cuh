// What match_anchors.cu and match_cells.cu share: the walk of a warp, which has 64 boxes of an image in registers, over
// the ground truths of that image, which lie in shared memory. Boxes that follow each other lie side by side in the
// picture and have like sizes, so that most ground truths have no IoU worth knowing with any of a warp's: 32 ground
// truths are tested at once, one a lane, and only the others are met.
#pragma once

#include <limits>

#include "../checks/match_anchors.h"
#include "../math/match_anchors.h"
#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMatchThreads = 256;  // as many ground truths in a tile: one a thread to load
constexpr int kMatchWarps = kMatchThreads / kWarp;
// Of a thread: a ground truth read from shared memory serves them all. In double more than one spills registers around
// the division.
template <typename T>
constexpr int kMatchBoxes = sizeof(T) == 8 ? 1 : 2;
template <typename T>
constexpr int kWarpBoxes = kWarp * kMatchBoxes<T>;
constexpr unsigned kMostGridRows = 65535;

__device__ inline void raise_to(int32_t* at, int32_t value) { atomicMax(at, value); }
__device__ inline void raise_to(int64_t* at, int64_t value) {
  atomicMax(reinterpret_cast<long long*>(at), static_cast<long long>(value));
}

__device__ inline int32_t warp_highest(int32_t rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_max_sync(kAllLanes, rank);
#else
  for (int flip = kWarp / 2; flip > 0; flip /= 2) rank = maximum(rank, __shfl_xor_sync(kAllLanes, rank, flip));
  return rank;
#endif
}
__device__ inline int64_t warp_highest(int64_t rank) {
  for (int flip = kWarp / 2; flip > 0; flip /= 2) rank = maximum(rank, __shfl_xor_sync(kAllLanes, rank, flip));
  return rank;
}

// Before all others. Ground truth offsets[b] .. offsets[b + 1] are those of image b: on a GPU nobody has looked at the
// counts, so a negative one is 0 and what would be beyond the end is not there. And the beginnings of what is found for
// each ground truth.
template <typename T>
__global__ void __launch_bounds__(kMatchThreads)
    prepare_kernel(const int64_t* counts,  // [B], or null for one image that has all
                   int64_t images, int64_t total,
                   int64_t* offsets,  // [B + 1]
                   Rank<T>* highest,  // [G] or null
                   int32_t* first) {  // [G] or null
  const int64_t truth = static_cast<int64_t>(blockIdx.x) * kMatchThreads + threadIdx.x;
  if (highest != nullptr && truth < total) highest[truth] = std::numeric_limits<Rank<T>>::min();
  if (first != nullptr && truth < total) first[truth] = INT32_MAX;
  if (blockIdx.x > 0) return;
  __shared__ int64_t sums[kMatchThreads];
  const int64_t each = (images + kMatchThreads - 1) / kMatchThreads;
  const int64_t begin = threadIdx.x * each, end = minimum(begin + each, images);
  const auto count_of = [&](int64_t image) {
    return counts ? minimum(maximum(counts[image], int64_t{0}), total) : total;
  };
  int64_t sum = 0;
  for (int64_t image = begin; image < end; ++image) sum += count_of(image);
  sums[threadIdx.x] = sum;
  __syncthreads();
  int64_t at = 0;
  for (unsigned before = 0; before < threadIdx.x; ++before) at += sums[before];
  for (int64_t image = begin; image < end; ++image) {
    offsets[image] = minimum(at, total);
    at += count_of(image);
  }
  if (threadIdx.x == kMatchThreads - 1) offsets[images] = minimum(at, total);
}

// Which boxes of an image a warp has, and which of the ground truths: `slices` warps with the same boxes share them.
struct WarpShare {
  int64_t first_box;
  int slice, slices;

  // Lanes have neighbours.
  __device__ int64_t box(int k) const { return first_box + k * kWarp + threadIdx.x % kWarp; }
};

// From the last box to the first: coarse levels come last and have the most to do, so they start first.
template <typename T>
__device__ WarpShare share_of_warp(int slices) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, groups = kMatchWarps / slices;
  const int64_t group = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * groups + warp / slices;
  return {group * kWarpBoxes<T>, warp % slices, slices};
}

// Those of one thread, and what is known of all of the warp's.
template <typename T>
struct WarpBoxes {
  WarpShare share;
  Box<T> box[kMatchBoxes<T>];
  T area[kMatchBoxes<T>];
  Box<T> around;
  T least_area, most_area;
  bool plain;

  // With every one of them a ground truth has an IoU of at most this, if all are plain: the overlap is at most the
  // lesser area, the union at least the greater. The margins are for rounding.
  __device__ T highest_iou(const Box<T>& truth, T truth_area) const {
    if (apart(around, truth)) return T(0);
    const T ratio = truth_area < least_area  ? truth_area / least_area
                    : truth_area > most_area ? most_area / truth_area
                                             : T(1);
    return ratio * T(1.001) + std::numeric_limits<T>::min();
  }
};

// What is left of the last warp's repeats the last box, which changes no maximum.
template <typename T>
__device__ WarpBoxes<T> load_boxes(const T* boxes,  // [count, 4]
                                   int64_t count, const WarpShare& share) {
  WarpBoxes<T> mine;
  mine.share = share;
  bool plain = true;
  for (int k = 0; k < kMatchBoxes<T>; ++k) {
    const T* b = boxes + 4 * minimum(share.box(k), count - 1);
    mine.box[k] = {b[0], b[1], b[2], b[3]};
    mine.area[k] = area(mine.box[k]);
    plain = plain && is_plain(mine.box[k], mine.area[k]);
  }
  Box<T> around = mine.box[0];
  T least = mine.area[0], most = mine.area[0];
  const auto widen = [&](const Box<T>& b, T least_area, T most_area) {
    around = {minimum(around.x1, b.x1), minimum(around.y1, b.y1), maximum(around.x2, b.x2), maximum(around.y2, b.y2)};
    least = minimum(least, least_area);
    most = maximum(most, most_area);
  };
  for (int k = 1; k < kMatchBoxes<T>; ++k) widen(mine.box[k], mine.area[k], mine.area[k]);
  for (int flip = kWarp / 2; flip > 0; flip /= 2) {
    const auto other = [flip](T value) { return __shfl_xor_sync(kAllLanes, value, flip); };
    const Box<T> b{other(around.x1), other(around.y1), other(around.x2), other(around.y2)};
    widen(b, other(least), other(most));
  }
  mine.around = around;
  mine.least_area = least;
  mine.most_area = most;
  mine.plain = __all_sync(kAllLanes, plain);
  return mine;
}

template <typename T>
struct TruthTile {
  Box<T> box[kMatchThreads];
  T area[kMatchThreads];
  Rank<T> rank[kMatchThreads];  // the visitor's
};

// The rank of the IoU of ground truth i of a tile with box k of a thread.
template <bool plain, typename T>
__device__ Rank<T> rank_of_pair(const TruthTile<T>& tile, int i, const WarpBoxes<T>& mine, int k) {
  if (plain) return rank_of_positive(plain_iou(tile.box[i], tile.area[i], mine.box[k], mine.area[k]));
  return rank_of(iou(tile.box[i], tile.area[i], mine.box[k], mine.area[k]));
}

// What a visitor may leave as it is. It has besides:
//   Rank<T> needed(const TruthTile<T>& tile, int i): less than this rank is no news of ground truth i;
//   template <bool plain> void meet(TruthTile<T>& tile, int i, int64_t truth): `truth` is its index among those of all
//   images; they come in rising order.
template <typename T>
struct Visitor {
  __device__ Rank<T> rank(int64_t truth) const { return 0; }  // for the tile
  __device__ void start(int64_t first, bool plain) {}  // of a tile
  // After a tile; some_plain: some of the block's boxes have an IoU of at least 0 with each of its ground truths.
  __device__ void finish(int64_t truth, Rank<T> rank, bool some_plain) const {}
};

// The threads of a block have ground truths of the same image.
template <typename T, typename V>
__device__ void walk_truths(const Box<T>* truths, int64_t begin, int64_t end, const WarpBoxes<T>& mine,
                            TruthTile<T>& tile, V& visitor) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  for (int64_t first = begin; first < end; first += kMatchThreads) {
    const int count = static_cast<int>(minimum(end - first, int64_t{kMatchThreads}));
    bool all_plain = true;
    if (thread < count) {
      const Box<T> box = truths[first + thread];
      const T box_area = area(box);
      tile.box[thread] = box;
      tile.area[thread] = box_area;
      tile.rank[thread] = visitor.rank(first + thread);
      all_plain = is_plain(box, box_area) && box_area > T(0);
    }
    const bool plain = __syncthreads_and(all_plain) && mine.plain;
    visitor.start(first, plain);
    for (int group = mine.share.slice * kWarp; group < count; group += mine.share.slices * kWarp) {
      const int i = group + lane;
      bool met = i < count;
      if (met && plain) {
        met = rank_of_positive(mine.highest_iou(tile.box[i], tile.area[i])) >= visitor.needed(tile, i);
      }
      for (unsigned left = __ballot_sync(kAllLanes, met); left != 0; left &= left - 1) {
        const int next = group + __ffs(static_cast<int>(left)) - 1;
        if (plain) {
          visitor.template meet<true>(tile, next, first + next);
        } else {
          visitor.template meet<false>(tile, next, first + next);
        }
      }
    }
    const bool some_plain = __syncthreads_or(plain);
    if (thread < count) visitor.finish(first + thread, tile.rank[thread], some_plain);
  }
}

template <typename T>
dim3 match_grid(int64_t boxes, int64_t images, int slices = 1) {
  const int64_t of_block = kMatchWarps / slices * kWarpBoxes<T>;
  return dim3(static_cast<unsigned>((boxes + of_block - 1) / of_block),
              static_cast<unsigned>(minimum(images, int64_t{kMostGridRows})));
}

// The offsets of the images, [B + 1]; without counts B is 1.
template <typename T>
Tensor prepare_matching(const Tensor& gt_boxes, const std::optional<Tensor>& counts, Rank<T>* highest, int32_t* first,
                        cudaStream_t stream) {
  const int64_t images = counts ? counts->size(0) : 1, total = gt_boxes.size(0);
  Tensor offsets = new_dense(gt_boxes, {images + 1}, ScalarType::Long);
  std::optional<Tensor> dense;
  if (counts) dense = as_contiguous(*counts, ScalarType::Long);
  const int64_t blocks = highest == nullptr ? 1 : (total + kMatchThreads - 1) / kMatchThreads;
  launch(prepare_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kMatchThreads), 0, stream,
         dense ? dense->const_data_ptr<int64_t>() : nullptr, images, total, offsets.mutable_data_ptr<int64_t>(),
         highest, first);
  return offsets;
}

}  // namespace
}  // namespace pydet
