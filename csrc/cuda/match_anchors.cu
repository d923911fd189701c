#include "cuda_utils.cuh"
// after the one that it builds on
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
  const ThreadBoxes<T>& mine;
  const int64_t begin;     // of the image's ground truths
  Rank<T>* const highest;  // [G], or null where nobody asks
  Rank<T> best[kMatchBoxes];
  int32_t index[kMatchBoxes];

  __device__ BestOfBoth(const ThreadBoxes<T>& mine, int64_t begin, Rank<T>* highest)
      : mine(mine), begin(begin), highest(highest) {
    for (int k = 0; k < kMatchBoxes; ++k) {
      best[k] = std::numeric_limits<Rank<T>>::min();
      index[k] = 0;
    }
  }

  __device__ Rank<T> rank(int64_t) const { return std::numeric_limits<Rank<T>>::min(); }
  __device__ void start(int64_t first, bool plain) {
    for (int k = 0; k < kMatchBoxes; ++k) {  // the first one has an IoU of at least 0, looked at or not
      const bool better = plain && best[k] < 0;
      index[k] = better ? static_cast<int32_t>(first - begin) : index[k];
      best[k] = better ? 0 : best[k];
    }
  }
  __device__ bool skips(Rank<T>& rank) const {
    if (rank < 0) raise_to(&rank, 0);
    return true;
  }
  __device__ void meet(TruthTile<T>& tile, int i, int64_t truth) {
    Rank<T> most = std::numeric_limits<Rank<T>>::min();
    for (int k = 0; k < kMatchBoxes; ++k) {
      const Rank<T> rank = rank_of(iou(tile.box[i], tile.area[i], mine.box[k], mine.area[k]));
      const bool better = rank > best[k];  // so that the first of equals stays
      index[k] = better ? static_cast<int32_t>(truth - begin) : index[k];
      best[k] = better ? rank : best[k];
      most = maximum(most, rank);
    }
    if (highest == nullptr) return;
    most = warp_highest(most);
    if (threadIdx.x % kWarp == 0 && most > tile.rank[i]) raise_to(&tile.rank[i], most);
  }
  __device__ void finish(int64_t truth, Rank<T> rank) const {
    if (highest != nullptr && rank > highest[truth]) raise_to(highest + truth, rank);
  }
};

// In RetinaNet's mode the low half of a result is that of the thresholds and the high half is the best ground truth
// whatever its IoU, until restore_kernel.
template <typename T>
__global__ void __launch_bounds__(kMatchThreads)
    match_kernel(AnchorsAndTruths<T> in, Rank<T> high, Rank<T> low, bool keep_index, Rank<T>* highest, int64_t* out) {
  __shared__ TruthTile<T> tile;
  for (int64_t image = blockIdx.y; image < in.images; image += gridDim.y) {
    const ThreadBoxes<T> mine = load_boxes(in.anchors_of(image), in.anchor_count);
    BestOfBoth<T> visitor(mine, in.offsets[image], highest);
    walk_truths(in.truths, in.offsets[image], in.offsets[image + 1], mine, tile, visitor);
    for (int k = 0; k < kMatchBoxes; ++k) {
      if (box_index(k) >= in.anchor_count) continue;
      const int64_t index = visitor.index[k];
      const int64_t result = visitor.best[k] < low ? kBackground : visitor.best[k] < high ? kBetween : index;
      out[image * in.anchor_count + box_index(k)] = keep_index ? (index << 32) | (result & UINT32_MAX) : result;
    }
  }
}

// Anchors that have the best IoU of a ground truth. NaN counts: an anchor that has it is matched already, and stays so.
template <typename T>
struct HasBest : Visitor<T> {
  const ThreadBoxes<T>& mine;
  const Rank<T>* const highest;  // [G]
  bool equal[kMatchBoxes] = {};

  __device__ HasBest(const ThreadBoxes<T>& mine, const Rank<T>* highest) : mine(mine), highest(highest) {}

  __device__ Rank<T> rank(int64_t truth) const { return highest[truth]; }
  __device__ bool skips(Rank<T>& rank) const { return rank > 0; }
  __device__ bool has(const TruthTile<T>& tile, int i, int k) const {
    return rank_of(iou(tile.box[i], tile.area[i], mine.box[k], mine.area[k])) == tile.rank[i];
  }
  __device__ void meet(const TruthTile<T>& tile, int i, int64_t) {
    for (int k = 0; k < kMatchBoxes; ++k) equal[k] |= has(tile, i, k);
  }
};

// RetinaNet: anchors on which a ground truth's best IoU lies, ties included, get their own best ground truth back.
template <typename T>
__global__ void __launch_bounds__(kMatchThreads)
    restore_kernel(AnchorsAndTruths<T> in, const Rank<T>* highest, int64_t* out) {
  __shared__ TruthTile<T> tile;
  for (int64_t image = blockIdx.y; image < in.images; image += gridDim.y) {
    const ThreadBoxes<T> mine = load_boxes(in.anchors_of(image), in.anchor_count);
    HasBest<T> visitor(mine, highest);
    walk_truths(in.truths, in.offsets[image], in.offsets[image + 1], mine, tile, visitor);
    for (int k = 0; k < kMatchBoxes; ++k) {
      if (box_index(k) >= in.anchor_count) continue;
      int64_t* result = out + image * in.anchor_count + box_index(k);
      *result = visitor.equal[k] ? *result >> 32 : static_cast<int32_t>(*result);
    }
  }
}

// The first anchor that has the best IoU of each ground truth, NaN counting as the best.
template <typename T>
struct FirstBest : HasBest<T> {
  const int64_t last;    // anchor
  int32_t* const first;  // [G]

  __device__ FirstBest(const ThreadBoxes<T>& mine, const Rank<T>* highest, int64_t anchor_count, int32_t* first)
      : HasBest<T>(mine, highest), last(anchor_count - 1), first(first) {}

  __device__ void meet(const TruthTile<T>& tile, int i, int64_t truth) {
    int32_t anchor = INT32_MAX;
    for (int k = kMatchBoxes - 1; k >= 0; --k) {
      anchor = this->has(tile, i, k) ? static_cast<int32_t>(minimum(box_index(k), last)) : anchor;
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
    const ThreadBoxes<T> mine = load_boxes(in.anchors_of(image), in.anchor_count);
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

template <typename T>
void match_anchors_launch(const Tensor& anchors, const Tensor& gt_boxes, const std::optional<Tensor>& counts,
                          double high, double low, MatchMode mode, Tensor& out, cudaStream_t stream) {
  const ScalarType type = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
  const Tensor dense = as_contiguous(anchors, type), truths = as_contiguous(gt_boxes, type);
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
  const dim3 grid = match_grid(anchor_count, in.images), block(kMatchThreads);
  launch(match_kernel<T>, grid, block, 0, stream, in, rank_of(static_cast<T>(high)), rank_of(static_cast<T>(low)),
         restores, ranks, results);
  if (restores) launch(restore_kernel<T>, grid, block, 0, stream, in, ranks, results);
  if (!forces) return;
  launch(first_best_kernel<T>, grid, block, 0, stream, in, ranks, firsts);
  launch(force_kernel, dim3(static_cast<unsigned>(minimum(in.images, int64_t{INT32_MAX}))), block, 0, stream,
         in.offsets, firsts, in.images, anchor_count, results);
}

Tensor match_anchors_cuda(const Tensor& anchors,         // [A, 4] or [B, A, 4] xyxy
                          const Tensor& gt_boxes,        // [G, 4] xyxy
                          std::optional<Tensor> counts,  // [B]
                          double high_threshold, std::optional<double> low_threshold, std::string mode_name) {
  const MatchMode mode = check_match_anchors(anchors, gt_boxes, counts, high_threshold, low_threshold, mode_name);
  const DeviceGuard guard(anchors.get_device_index());
  std::vector<int64_t> shape{anchors.size(-2)};
  if (counts) shape.insert(shape.begin(), counts->size(0));
  Tensor out = new_dense(anchors, shape, ScalarType::Long);
  if (out.numel() == 0) return out;
  const cudaStream_t stream = current_stream(anchors);
  const double low = low_threshold_of(mode, high_threshold, low_threshold);
  if (anchors.scalar_type() == ScalarType::Double || gt_boxes.scalar_type() == ScalarType::Double) {
    match_anchors_launch<double>(anchors, gt_boxes, counts, high_threshold, low, mode, out, stream);
  } else {
    match_anchors_launch<float>(anchors, gt_boxes, counts, high_threshold, low, mode, out, stream);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("match_anchors", TORCH_BOX(&match_anchors_cuda)); }

}  // namespace pydet
