#include "match_anchors.cuh"

namespace pydet {
namespace {

constexpr long long kForced = 1LL << 32;  // above every index of a ground truth

template <typename T>
struct AnchorsAndTruths {
  const T* anchors;  // [A, 4] or [B, A, 4]
  int64_t anchor_count, image_stride, images;
  const Box<T>* truths;    // [G]
  const int64_t* offsets;  // [B + 1]

  __device__ const T* anchors_of(int64_t image) const { return anchors + image * image_stride; }
};

// The best ground truth of each of a thread's anchors, and for each ground truth of a tile the best of all anchors.
template <typename T>
struct BestOfBoth : Visitor<T> {
  const WarpBoxes<T>& mine;
  const int64_t begin;     // of the image's ground truths
  const Rank<T> news;      // where nobody asks for the best of a ground truth, what is below the thresholds is none
  Rank<T>* const highest;  // [G], or null
  Rank<T> best[kMatchBoxes<T>];
  int32_t index[kMatchBoxes<T>];

  __device__ BestOfBoth(const WarpBoxes<T>& mine, int64_t begin, Rank<T> low, Rank<T>* highest)
      : mine(mine), begin(begin), news(highest == nullptr && low > 1 ? low : 1), highest(highest) {
    for (int k = 0; k < kMatchBoxes<T>; ++k) {
      best[k] = std::numeric_limits<Rank<T>>::min();
      index[k] = 0;
    }
  }

  __device__ void keep_better(int k, Rank<T> rank, int32_t truth, bool better) {
    index[k] = better ? truth : index[k];
    best[k] = better ? rank : best[k];
  }
  __device__ Rank<T> rank(int64_t) const { return std::numeric_limits<Rank<T>>::min(); }
  __device__ Rank<T> needed(const TruthTile<T>&, int) const { return news; }
  __device__ void start(int64_t first, bool plain) {  // the first one has an IoU of at least 0, met or not
    for (int k = 0; k < kMatchBoxes<T>; ++k)
      keep_better(k, 0, static_cast<int32_t>(first - begin), plain && best[k] < 0);
  }
  template <bool plain>
  __device__ void meet(TruthTile<T>& tile, int i, int64_t truth) {
    Rank<T> most = std::numeric_limits<Rank<T>>::min();
    for (int k = 0; k < kMatchBoxes<T>; ++k) {
      const Rank<T> rank = rank_of_pair<plain>(tile, i, mine, k);
      keep_better(k, rank, static_cast<int32_t>(truth - begin), rank > best[k]);  // the first of equals stays
      most = maximum(most, rank);
    }
    if (highest == nullptr) return;
    most = warp_highest(most);
    if (threadIdx.x % kWarp == 0) raise_to(&tile.rank[i], most);
  }
  __device__ void finish(int64_t truth, Rank<T> rank, bool some_plain) const {
    if (highest == nullptr) return;
    rank = some_plain ? maximum(rank, Rank<T>(0)) : rank;
    if (rank > load_relaxed(highest + truth)) raise_to(highest + truth, rank);
  }
};

template <typename T>
struct SliceBests {
  Rank<T> best[kMatchBoxes<T>][kMatchThreads];
  int32_t index[kMatchBoxes<T>][kMatchThreads];
};

// Brings the bests of the warps that share their anchors together in the first of these warps.
template <typename T>
__device__ void merge_slices(BestOfBoth<T>& own, int slices, SliceBests<T>& shared) {
  for (int k = 0; k < kMatchBoxes<T>; ++k) {
    shared.best[k][threadIdx.x] = own.best[k];
    shared.index[k][threadIdx.x] = own.index[k];
  }
  __syncthreads();
  for (int slice = 1; slice < slices && own.mine.share.slice == 0; ++slice) {
    for (int k = 0; k < kMatchBoxes<T>; ++k) {
      const Rank<T> best = shared.best[k][threadIdx.x + slice * kWarp];
      const int32_t index = shared.index[k][threadIdx.x + slice * kWarp];
      own.keep_better(k, best, index, best > own.best[k] || (best == own.best[k] && index < own.index[k]));
    }
  }
  __syncthreads();
}

// In RetinaNet's mode the low half of a result is that of the thresholds and the high half is the best ground truth
// whatever its IoU, until restore_kernel.
template <typename T>
__global__ void __launch_bounds__(kMatchThreads)
    match_kernel(AnchorsAndTruths<T> in, int slices, Rank<T> high, Rank<T> low, bool keep_index, Rank<T>* highest,
                 int64_t* out) {
  __shared__ TruthTile<T> tile;
  __shared__ SliceBests<T> bests;
  const WarpShare share = share_of_warp<T>(slices);
  for (int64_t image = blockIdx.y; image < in.images; image += gridDim.y) {
    const WarpBoxes<T> mine = load_boxes(in.anchors_of(image), in.anchor_count, share);
    BestOfBoth<T> visitor(mine, in.offsets[image], low, highest);
    walk_truths(in.truths, in.offsets[image], in.offsets[image + 1], mine, tile, visitor);
    if (slices > 1) merge_slices(visitor, slices, bests);
    for (int k = 0; k < kMatchBoxes<T>; ++k) {
      if (share.slice > 0 || share.box(k) >= in.anchor_count) continue;
      const int64_t index = visitor.index[k];
      const int64_t result = visitor.best[k] < low ? kBackground : visitor.best[k] < high ? kBetween : index;
      out[image * in.anchor_count + share.box(k)] = keep_index ? (index << 32) | (result & UINT32_MAX) : result;
    }
  }
}

// Anchors that have the best IoU of a ground truth. NaN counts: an anchor that has it is matched already, and stays so.
template <typename T>
struct HasBest : Visitor<T> {
  const WarpBoxes<T>& mine;
  const Rank<T>* const highest;  // [G]
  bool equal[kMatchBoxes<T>] = {};

  __device__ HasBest(const WarpBoxes<T>& mine, const Rank<T>* highest) : mine(mine), highest(highest) {}

  __device__ Rank<T> rank(int64_t truth) const { return highest[truth]; }
  __device__ Rank<T> needed(const TruthTile<T>& tile, int i) const { return tile.rank[i]; }
  template <bool plain>
  __device__ void meet(const TruthTile<T>& tile, int i, int64_t) {
    for (int k = 0; k < kMatchBoxes<T>; ++k) equal[k] |= rank_of_pair<plain>(tile, i, mine, k) == tile.rank[i];
  }
};

// RetinaNet: anchors on which a ground truth's best IoU lies, ties included, get their own best ground truth back.
template <typename T>
__global__ void __launch_bounds__(kMatchThreads)
    restore_kernel(AnchorsAndTruths<T> in, const Rank<T>* highest, int64_t* out) {
  __shared__ TruthTile<T> tile;
  const WarpShare share = share_of_warp<T>(1);
  for (int64_t image = blockIdx.y; image < in.images; image += gridDim.y) {
    const WarpBoxes<T> mine = load_boxes(in.anchors_of(image), in.anchor_count, share);
    HasBest<T> visitor(mine, highest);
    walk_truths(in.truths, in.offsets[image], in.offsets[image + 1], mine, tile, visitor);
    for (int k = 0; k < kMatchBoxes<T>; ++k) {
      if (share.box(k) >= in.anchor_count) continue;
      int64_t* result = out + image * in.anchor_count + share.box(k);
      *result = visitor.equal[k] ? *result >> 32 : static_cast<int32_t>(*result);
    }
  }
}

// The first anchor that has the best IoU of each ground truth, NaN counting as the best.
template <typename T>
struct FirstBest : HasBest<T> {
  int32_t* const first;  // [G]
  int32_t index[kMatchBoxes<T>];

  __device__ FirstBest(const WarpBoxes<T>& mine, const Rank<T>* highest, int64_t anchor_count, int32_t* first)
      : HasBest<T>(mine, highest), first(first) {
    for (int k = 0; k < kMatchBoxes<T>; ++k) {
      index[k] = static_cast<int32_t>(minimum(mine.share.box(k), anchor_count - 1));
    }
  }

  template <bool plain>
  __device__ void meet(const TruthTile<T>& tile, int i, int64_t truth) {
    int32_t anchor = INT32_MAX;
    for (int k = kMatchBoxes<T> - 1; k >= 0; --k) {
      anchor = rank_of_pair<plain>(tile, i, this->mine, k) == tile.rank[i] ? index[k] : anchor;
    }
    anchor = -warp_highest(-anchor);
    if (threadIdx.x % kWarp == 0 && anchor != INT32_MAX) atomicMin(first + truth, anchor);
  }
};

template <typename T>
__global__ void __launch_bounds__(kMatchThreads)
    first_best_kernel(AnchorsAndTruths<T> in, const Rank<T>* highest, int32_t* first) {
  __shared__ TruthTile<T> tile;
  for (int64_t image = blockIdx.y; image < in.images; image += gridDim.y) {
    const WarpBoxes<T> mine = load_boxes(in.anchors_of(image), in.anchor_count, share_of_warp<T>(1));
    FirstBest<T> visitor(mine, highest, in.anchor_count, first);
    walk_truths(in.truths, in.offsets[image], in.offsets[image + 1], mine, tile, visitor);
  }
}

// SSD section 2.2: every ground truth gets its best prior; where two want the same one the last has it, as in
// torchvision. A block an image: first all claim theirs, the highest claim stays, then it becomes an index.
__global__ void __launch_bounds__(kMatchThreads)
    force_kernel(const int64_t* offsets, const int32_t* first, int64_t images, int64_t anchor_count, int64_t* out) {
  for (int64_t image = blockIdx.x; image < images; image += gridDim.x) {
    const int64_t begin = offsets[image], count = offsets[image + 1] - begin;
    int64_t* own = out + image * anchor_count;
    for (int64_t g = threadIdx.x; g < count; g += kMatchThreads) {
      atomicMax(reinterpret_cast<long long*>(own + first[begin + g]), kForced + g);
    }
    __syncthreads();
    for (int64_t g = threadIdx.x; g < count; g += kMatchThreads) {
      atomicCAS(reinterpret_cast<unsigned long long*>(own + first[begin + g]),
                static_cast<unsigned long long>(kForced + g), static_cast<unsigned long long>(g));
    }
  }
}

// How many warps share the ground truths of the same anchors: where there are too few warps to fill the GPU, and a warp
// would be alone for long with anchors that all ground truths overlap.
template <typename T>
int slices_of(int64_t anchor_count, int64_t images, int64_t truths) {
  constexpr int kWarpsToFill = 4 * 32;  // of a multiprocessor; some have little to do
  const int64_t warps = images * ((anchor_count + kWarpBoxes<T> - 1) / kWarpBoxes<T>);
  int slices = 1;
  while (slices < kMatchWarps && truths > images * slices * kWarp &&
         warps * slices < int64_t{kWarpsToFill} * multiprocessors()) {
    slices *= 2;
  }
  return slices;
}

template <typename T>
void match_anchors_launch(const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& counts,
                          double high, double low, MatchMode mode, Tensor& out, cudaStream_t stream) {
  const Tensor dense = as_contiguous(anchors, kDtype<T>), truths = as_contiguous(gt_boxes, kDtype<T>);
  const int64_t total = gt_boxes.size(0), anchor_count = anchors.size(-2);
  const bool restores = mode == MatchMode::retinanet && total > 0, forces = mode == MatchMode::ssd && total > 0;
  Tensor highest =
      new_dense(anchors, {restores || forces ? total : 0}, sizeof(T) == 8 ? ScalarType::Long : ScalarType::Int);
  Tensor first = new_dense(anchors, {forces ? total : 0}, ScalarType::Int);
  Rank<T>* ranks = restores || forces ? highest.mutable_data_ptr<Rank<T>>() : nullptr;
  int32_t* firsts = forces ? first.mutable_data_ptr<int32_t>() : nullptr;
  const Tensor offsets = prepare_matching<T>(gt_boxes, counts, ranks, firsts, stream);
  const AnchorsAndTruths<T> in{dense.const_data_ptr<T>(),
                               anchor_count,
                               anchors.dim() == 3 ? 4 * anchor_count : 0,
                               counts ? counts->size(0) : 1,
                               reinterpret_cast<const Box<T>*>(truths.const_data_ptr<T>()),
                               offsets.const_data_ptr<int64_t>()};
  int64_t* results = out.mutable_data_ptr<int64_t>();
  const dim3 grid = match_grid<T>(anchor_count, in.images), block(kMatchThreads);
  const int slices = slices_of<T>(anchor_count, in.images, total);
  launch(match_kernel<T>, match_grid<T>(anchor_count, in.images, slices), block, 0, stream, in, slices,
         rank_of(static_cast<T>(high)), rank_of(static_cast<T>(low)), restores, ranks, results);
  if (restores) launch(restore_kernel<T>, grid, block, 0, stream, in, ranks, results);
  if (!forces) return;
  launch(first_best_kernel<T>, grid, block, 0, stream, in, ranks, firsts);
  launch(force_kernel, dim3(static_cast<unsigned>(minimum(in.images, int64_t{INT32_MAX}))), block, 0, stream,
         in.offsets, firsts, in.images, anchor_count, results);
}

Tensor match_anchors_cuda(const Tensor& anchors,         // [A, 4] or [B, A, 4] xyxy
                          const Tensor& gt_boxes,        // [G, 4] xyxy
                          std::optional<Tensor> counts,  // [B]
                          double high_threshold, std::optional<double> low_threshold, Text mode_name) {
  const MatchMode mode = check_match_anchors(anchors, gt_boxes, counts, high_threshold, low_threshold, mode_name);
  const DeviceGuard guard(anchors.get_device_index());
  std::vector<int64_t> shape{anchors.size(-2)};
  if (counts) shape.insert(shape.begin(), counts->size(0));
  Tensor out = new_dense(anchors, shape, ScalarType::Long);
  if (out.numel() == 0) return out;
  const cudaStream_t stream = current_stream(anchors);
  const double low = low_threshold_of(mode, high_threshold, low_threshold);
  if (wide_dtype(anchors, gt_boxes) == ScalarType::Double) {
    match_anchors_launch<double>(anchors, gt_boxes, counts, high_threshold, low, mode, out, stream);
  } else {
    match_anchors_launch<float>(anchors, gt_boxes, counts, high_threshold, low, mode, out, stream);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("match_anchors", TORCH_BOX(&match_anchors_cuda)); }

}  // namespace pydet
