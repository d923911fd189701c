// What match_anchors.cu and match_cells.cu share. A block has 512 boxes of an image in registers and walks over the
// ground truths of that image, a tile in shared memory after another. Boxes that follow each other lie side by side in
// the picture, so most ground truths are apart from all 128 boxes of a warp: 32 of them are tested at once, one a lane,
// and only the others are met. Included after cuda_utils.cuh.
#pragma once

#include <limits>

#include "../checks/match_anchors.h"
#include "../math/match_anchors.h"

namespace pydet {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMatchThreads = 128;  // as many ground truths in a tile: one a thread to load
constexpr int kMatchBoxes = 4;  // a thread: a ground truth read from shared memory serves four pairs
constexpr int kBlockBoxes = kMatchThreads * kMatchBoxes;
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

// Those of one thread; `around` and `plain` are of the whole warp.
template <typename T>
struct ThreadBoxes {
  Box<T> box[kMatchBoxes];
  T area[kMatchBoxes];
  Box<T> around;
  bool plain;
};

// Index of a thread's box k in its image; lanes have neighbours.
__device__ inline int64_t box_index(int k) {
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  return static_cast<int64_t>(blockIdx.x) * kBlockBoxes + (warp * kMatchBoxes + k) * kWarp + lane;
}

// What is left of the last block repeats the last box, which changes no maximum.
template <typename T>
__device__ ThreadBoxes<T> load_boxes(const T* boxes,  // [count, 4]
                                     int64_t count) {
  ThreadBoxes<T> mine;
  bool plain = true;
  for (int k = 0; k < kMatchBoxes; ++k) {
    const T* b = boxes + 4 * minimum(box_index(k), count - 1);
    mine.box[k] = {b[0], b[1], b[2], b[3]};
    mine.area[k] = area(mine.box[k]);
    plain = plain && is_plain(mine.box[k], mine.area[k]);
  }
  Box<T> around = mine.box[0];
  const auto widen = [&around](const Box<T>& b) {
    around = {minimum(around.x1, b.x1), minimum(around.y1, b.y1), maximum(around.x2, b.x2), maximum(around.y2, b.y2)};
  };
  for (int k = 1; k < kMatchBoxes; ++k) widen(mine.box[k]);
  for (int flip = kWarp / 2; flip > 0; flip /= 2) {
    const Box<T> b = around;
    widen({__shfl_xor_sync(kAllLanes, b.x1, flip), __shfl_xor_sync(kAllLanes, b.y1, flip),
           __shfl_xor_sync(kAllLanes, b.x2, flip), __shfl_xor_sync(kAllLanes, b.y2, flip)});
  }
  mine.around = around;
  mine.plain = __all_sync(kAllLanes, plain);
  return mine;
}

template <typename T>
struct TruthTile {
  Box<T> box[kMatchThreads];
  T area[kMatchThreads];
  Rank<T> rank[kMatchThreads];  // the visitor's
};

// A visitor with nothing to do but to meet: void meet(const TruthTile<T>& tile, int i, int64_t index), `index` of the
// ground truth among those of all images, in rising order.
template <typename T>
struct Visitor {
  __device__ Rank<T> rank(int64_t index) const { return 0; }  // for the tile
  __device__ void start(int64_t first, bool plain) {}  // of a tile; plain: its IoUs with the warp are in [0, 1]
  __device__ bool skips(Rank<T>& rank) const { return true; }  // whether an IoU of 0 with the whole warp is no news
  __device__ void finish(int64_t index, Rank<T> rank) const {}
};

template <typename T, typename V>
__device__ void walk_truths(const Box<T>* truths, int64_t begin, int64_t end, const ThreadBoxes<T>& mine,
                            TruthTile<T>& tile, V& visitor) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  for (int64_t first = begin; first < end; first += kMatchThreads) {
    const int count = static_cast<int>(minimum(end - first, int64_t{kMatchThreads}));
    bool plain = true;
    if (thread < count) {
      const Box<T> box = truths[first + thread];
      const T box_area = area(box);
      tile.box[thread] = box;
      tile.area[thread] = box_area;
      tile.rank[thread] = visitor.rank(first + thread);
      plain = is_plain(box, box_area) && box_area > T(0);
    }
    plain = __syncthreads_and(plain) && mine.plain;
    visitor.start(first, plain);
    for (int group = 0; group < count; group += kWarp) {
      const int i = group + lane;
      bool met = i < count;
      if (met && plain && apart(mine.around, tile.box[i])) met = !visitor.skips(tile.rank[i]);
      for (unsigned left = __ballot_sync(kAllLanes, met); left != 0; left &= left - 1) {
        const int next = group + __ffs(static_cast<int>(left)) - 1;
        visitor.meet(tile, next, first + next);
      }
    }
    __syncthreads();
    if (thread < count) visitor.finish(first + thread, tile.rank[thread]);
  }
}

inline dim3 match_grid(int64_t boxes, int64_t images) {
  return dim3(static_cast<unsigned>((boxes + kBlockBoxes - 1) / kBlockBoxes),
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
