#include <tuple>

#include "match_anchors.cuh"

namespace pydet {
namespace {

template <typename T>
struct CellMatching {
  const T* predictions;  // [B, H * W * N, 4]
  int64_t rows, of_cell, images;  // H * W * N, N, B
  Grid<T> grid;
  const Box<T>* truths;    // [G]
  int64_t truth_count;
  const int64_t* offsets;  // [B + 1]
};

// Which prior each prediction of a cell has; count 0: all in their order. By value, because the list is the host's.
struct PriorMask {
  int32_t count, prior[kMostOfMask];
};

// Boxes that overlap a ground truth more than the threshold; NaN is not more.
template <typename T>
struct Above : Visitor<T> {
  const WarpBoxes<T>& mine;
  const Rank<T> threshold;  // not negative
  bool above[kMatchBoxes<T>] = {};

  __device__ Above(const WarpBoxes<T>& mine, Rank<T> threshold) : mine(mine), threshold(threshold) {}

  __device__ Rank<T> needed(const TruthTile<T>&, int) const { return threshold + 1; }
  template <bool plain>
  __device__ void meet(const TruthTile<T>& tile, int i, int64_t) {
    for (int k = 0; k < kMatchBoxes<T>; ++k) {
      const Rank<T> rank = rank_of_pair<plain>(tile, i, mine, k);
      above[k] |= rank > threshold && rank != std::numeric_limits<Rank<T>>::max();
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kMatchThreads)
    ignore_kernel(CellMatching<T> in, Rank<T> threshold, int64_t* matches) {
  __shared__ TruthTile<T> tile;
  const WarpShare share = share_of_warp<T>(1);
  for (int64_t image = blockIdx.y; image < in.images; image += gridDim.y) {
    const WarpBoxes<T> mine = load_boxes(in.predictions + 4 * image * in.rows, in.rows, share);
    Above<T> visitor(mine, threshold);
    walk_truths(in.truths, in.offsets[image], in.offsets[image + 1], mine, tile, visitor);
    for (int k = 0; k < kMatchBoxes<T>; ++k) {
      if (share.box(k) < in.rows) matches[image * in.rows + share.box(k)] = visitor.above[k] ? kIgnored : kBackground;
    }
  }
}

// Which image a ground truth is of, -1 if the counts leave it out.
__device__ inline int64_t image_of(int64_t truth, const int64_t* offsets, int64_t images) {
  int64_t from = 0, to = images;  // offsets[from] <= truth, and truth < offsets[to] if it is of any image
  if (truth >= offsets[images]) return -1;
  while (to - from > 1) {
    const int64_t middle = (from + to) / 2;
    (offsets[middle] <= truth ? from : to) = middle;
  }
  return from;
}

template <typename T>
__device__ Box<T> prediction_at(const CellMatching<T>& in, int64_t row) {
  const T* b = in.predictions + 4 * row;
  return {b[0], b[1], b[2], b[3]};
}

// Which of the predictions of a cell, the first of which is in row `first`; -1 for none.
template <typename T>
__device__ int64_t best_of_cell(const CellMatching<T>& in, CellMode mode, const Shape<T>* priors, int64_t prior_count,
                                const PriorMask& mask, const Box<T>& truth, int64_t first) {
  if (mode == CellMode::overlap) {
    Responsible<T> best;
    for (int64_t i = 0; i < in.of_cell; ++i) {
      const Box<T> b = prediction_at(in, first + i);
      best.meet(i, iou(truth, area(truth), b, area(b)), box_distance(truth, b, in.grid));
    }
    return best.index;
  }
  const Shape<T> shape = shape_of_box(truth);
  BestShape<T> best;
  if (priors == nullptr) {
    for (int64_t i = 0; i < in.of_cell; ++i) {
      best.meet(i, shape_iou(shape, shape_of_box(prediction_at(in, first + i))));
    }
    return best.index;
  }
  for (int64_t i = 0; i < prior_count; ++i) best.meet(i, shape_iou(shape, priors[i]));
  if (mask.count == 0) return best.index;
  for (int i = 0; i < mask.count; ++i) {
    if (mask.prior[i] == best.index) return i;
  }
  return -1;
}

// A thread a ground truth. The highest index in its image gets the prediction that several want: Darknet's last.
template <typename T>
__global__ void __launch_bounds__(kMatchThreads)
    assign_kernel(CellMatching<T> in, CellMode mode, const Shape<T>* priors, int64_t prior_count, PriorMask mask,
                  int64_t* matches,       // [B, H * W * N]
                  int64_t* predictors) {  // [G]
  const int64_t g = static_cast<int64_t>(blockIdx.x) * kMatchThreads + threadIdx.x;
  if (g >= in.truth_count) return;
  const int64_t image = image_of(g, in.offsets, in.images);
  const int64_t cell = image < 0 ? -1 : cell_of(in.truths[g], in.grid);
  int64_t row = -1;
  if (cell >= 0) {
    const int64_t begin = in.offsets[image], first = image * in.rows + cell * in.of_cell;
    bool taken = false;  // YOLO section 2.4: one object a cell
    if (mode == CellMode::overlap) {
      for (int64_t other = begin; other < g; ++other) taken = taken || cell_of(in.truths[other], in.grid) == cell;
    }
    const int64_t best = taken ? -1 : best_of_cell(in, mode, priors, prior_count, mask, in.truths[g], first);
    if (best >= 0) {
      row = first + best;
      atomicMax(reinterpret_cast<long long*>(matches + row), static_cast<long long>(g - begin));
    }
  }
  predictors[g] = row;
}

template <typename T>
void match_cells_launch(const Tensor& predictions, const Tensor& gt_boxes, const Tensor& counts, CellMode mode,
                        const Grid<T>& grid, const std::optional<Tensor>& priors, const PriorMask& mask,
                        double ignore_threshold, Tensor& matches, Tensor& predictors, cudaStream_t stream) {
  const Tensor dense = as_contiguous(predictions, kDtype<T>), truths = as_contiguous(gt_boxes, kDtype<T>);
  std::optional<Tensor> shapes;
  if (priors) shapes = as_contiguous(*priors, kDtype<T>);
  const Tensor offsets = prepare_matching<T>(gt_boxes, counts, nullptr, nullptr, stream);
  const int64_t rows = predictions.size(1), images = predictions.size(0), total = gt_boxes.size(0);
  const CellMatching<T> in{dense.const_data_ptr<T>(),
                           rows,
                           rows / (grid.x.cells * grid.y.cells),
                           images,
                           grid,
                           reinterpret_cast<const Box<T>*>(truths.const_data_ptr<T>()),
                           total,
                           offsets.const_data_ptr<int64_t>()};
  int64_t* results = matches.mutable_data_ptr<int64_t>();
  const dim3 block(kMatchThreads);
  if (images > 0) {
    launch(ignore_kernel<T>, match_grid<T>(rows, images), block, 0, stream, in,
           rank_of(static_cast<T>(ignore_threshold)), results);
  }
  if (total == 0) return;
  launch(assign_kernel<T>, dim3(static_cast<unsigned>((total + kMatchThreads - 1) / kMatchThreads)), block, 0, stream,
         in, mode, shapes ? reinterpret_cast<const Shape<T>*>(shapes->const_data_ptr<T>()) : nullptr,
         shapes ? shapes->size(0) : 0, mask, results, predictors.mutable_data_ptr<int64_t>());
}

std::tuple<Tensor, Tensor> match_cells_cuda(const Tensor& predictions,  // [B, H * W * N, 4] xyxy
                                            const Tensor& gt_boxes,     // [G, 4] xyxy
                                            const Tensor& counts,       // [B]
                                            std::vector<int64_t> grid, std::vector<int64_t> image_size, Text mode_name,
                                            std::optional<Tensor> priors,  // [K, 2]
                                            std::optional<std::vector<int64_t>> mask,
                                            std::optional<double> ignore_threshold) {
  const CellMode mode =
      check_match_cells(predictions, gt_boxes, counts, grid, image_size, mode_name, priors, mask, ignore_threshold);
  const DeviceGuard guard(predictions.get_device_index());
  Tensor matches = new_dense(predictions, {predictions.size(0), predictions.size(1)}, ScalarType::Long);
  Tensor predictors = new_dense(predictions, {gt_boxes.size(0)}, ScalarType::Long);
  if (matches.numel() == 0 && predictors.numel() == 0) return {matches, predictors};
  PriorMask by_value{};
  for (const int64_t prior : mask.value_or(std::vector<int64_t>())) {
    by_value.prior[by_value.count++] = static_cast<int32_t>(prior);
  }
  const cudaStream_t stream = current_stream(predictions);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Grid<T> cells{{grid[1], static_cast<T>(image_size[1])}, {grid[0], static_cast<T>(image_size[0])}};
    match_cells_launch<T>(predictions, gt_boxes, counts, mode, cells, priors, by_value,
                          ignore_threshold.value_or(std::numeric_limits<double>::infinity()), matches, predictors,
                          stream);
  };
  wide_dtype(predictions, gt_boxes) == ScalarType::Double ? run(double()) : run(float());
  return {matches, predictors};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("match_cells", TORCH_BOX(&match_cells_cuda)); }

}  // namespace pydet
