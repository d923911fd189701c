#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "checks/match_anchors.h"
#include "match_cpu.h"

#define PYDET_KERNELS "cpu/match_anchors.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kPairsPerTask = 1 << 16;  // about 20 us of work

// One call, its tensors as dense arrays of T.
template <typename T>
struct CellMatching {
  const T* predictions;  // [B, H * W * N, 4]
  int64_t rows, of_cell;  // H * W * N, N
  Grid<T> grid;
  CellMode mode;
  std::vector<Shape<T>> priors;  // none: those of the predictions
  std::vector<int64_t> mask;  // which of the priors each prediction of a cell has
  std::vector<Truth<T>> truths;
  std::vector<ImageTruths> images;
  int64_t* matches;  // [B, H * W * N]
  int64_t* predictors;  // [G]

  Box<T> prediction(int64_t row) const {
    const T* b = predictions + 4 * row;
    return {b[0], b[1], b[2], b[3]};
  }
};

template <typename T>
std::vector<Shape<T>> load_priors(const std::optional<Tensor>& priors) {
  if (!priors) return {};
  const Tensor dense = as_contiguous(*priors, ScalarType::Double);
  const double* data = dense.const_data_ptr<double>();
  std::vector<Shape<T>> shapes;
  for (int64_t i = 0; i < dense.numel(); ++i) {
    PYDET_CHECK(data[i] > 0 && std::isfinite(data[i]), "match_cells: priors must be positive and finite, got ", data[i],
                " at [", i / 2, ", ", i % 2, "]");
    if (i % 2) shapes.push_back({static_cast<T>(data[i - 1]), static_cast<T>(data[i])});
  }
  return shapes;
}

// The predictions of one image that overlap a ground truth more than the threshold are no negatives.
template <typename T>
void ignore_overlapping(const CellMatching<T>& m, int64_t image, int64_t first, std::optional<T> threshold) {
  const int64_t count = std::min(kMatchBlock, m.rows - first);
  int64_t* out = m.matches + image * m.rows + first;
  std::fill(out, out + count, kBackground);
  const ImageTruths& truths = m.images[image];
  if (!threshold || truths.count == 0) return;
  AnchorBlock<T> block;
  Rank<T> above[kMatchBlock] = {};
  PYDET_CPU_CALL(load_anchors, m.predictions + 4 * (image * m.rows + first), count, block);
  for (int64_t g = truths.begin; g < truths.begin + truths.count; ++g) {
    const bool skip = block.plain && truths.plain && apart(block.around, m.truths[g].box);
    if (!skip) PYDET_CPU_CALL(mark_above, block, m.truths[g], *threshold, above);
  }
  for (int64_t t = 0; t < count; ++t) out[t] = above[t] ? kIgnored : out[t];
}

// Which of the predictions of a cell, the first of which is in row `first`; -1 for none.
template <typename T>
int64_t best_of_cell(const CellMatching<T>& m, const Truth<T>& truth, int64_t first) {
  if (m.mode == CellMode::overlap) {
    Responsible<T> best;
    for (int64_t i = 0; i < m.of_cell; ++i) {
      const Box<T> b = m.prediction(first + i);
      best.meet(i, iou(truth.box, truth.area, b, area(b)), box_distance(truth.box, b, m.grid));
    }
    return best.index;
  }
  const Shape<T> shape = shape_of_box(truth.box);
  BestShape<T> best;
  if (m.priors.empty()) {
    for (int64_t i = 0; i < m.of_cell; ++i) best.meet(i, shape_iou(shape, shape_of_box(m.prediction(first + i))));
    return best.index;
  }
  for (size_t k = 0; k < m.priors.size(); ++k) best.meet(k, shape_iou(shape, m.priors[k]));
  if (m.mask.empty()) return best.index;
  const auto place = std::find(m.mask.begin(), m.mask.end(), best.index);
  return place == m.mask.end() ? -1 : place - m.mask.begin();
}

template <typename T>
void assign_truths(const CellMatching<T>& m, int64_t image) {
  const ImageTruths& truths = m.images[image];
  for (int64_t g = truths.begin; g < truths.begin + truths.count; ++g) {
    m.predictors[g] = -1;
    const int64_t cell = cell_of(m.truths[g].box, m.grid);
    if (cell < 0) continue;
    const int64_t first = image * m.rows + cell * m.of_cell;
    const bool taken = std::any_of(m.matches + first, m.matches + first + m.of_cell, [](int64_t t) { return t >= 0; });
    if (m.mode == CellMode::overlap && taken) continue;  // YOLO section 2.4: one object a cell; Darknet keeps the first
    const int64_t best = best_of_cell(m, m.truths[g], first);
    if (best < 0) continue;
    m.predictors[g] = first + best;
    m.matches[first + best] = g - truths.begin;  // the last one has it, as in Darknet
  }
}

template <typename T>
void match_cells_as(CellMatching<T>& m, const Tensor& predictions, const Tensor& gt_boxes,
                    const std::vector<int64_t>& counts, const std::optional<double>& ignore_threshold) {
  const Tensor dense = as_contiguous(predictions, kDtype<T>);
  m.predictions = dense.const_data_ptr<T>();
  m.truths = load_truths<T>(gt_boxes);
  m.images = by_image(m.truths, counts);
  std::optional<T> threshold;
  if (ignore_threshold) threshold = static_cast<T>(*ignore_threshold);
  const int64_t images = static_cast<int64_t>(m.images.size()), blocks = (m.rows + kMatchBlock - 1) / kMatchBlock;
  const int64_t pairs_per_block = kMatchBlock * (gt_boxes.size(0) / images + 1);
  torch::stable::parallel_for(0, images * blocks, kPairsPerTask / pairs_per_block + 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      ignore_overlapping(m, task / blocks, task % blocks * kMatchBlock, threshold);
    }
  });
  for (int64_t image = 0; image < images; ++image) assign_truths(m, image);
}

std::tuple<Tensor, Tensor> match_cells_cpu(const Tensor& predictions,  // [B, H * W * N, 4] xyxy
                                           const Tensor& gt_boxes,  // [G, 4] xyxy
                                           const Tensor& counts,  // [B]
                                           std::vector<int64_t> grid, std::vector<int64_t> image_size, Text mode_name,
                                           std::optional<Tensor> priors,  // [K, 2]
                                           std::optional<std::vector<int64_t>> mask,
                                           std::optional<double> ignore_threshold) {
  const CellMode mode =
      check_match_cells(predictions, gt_boxes, counts, grid, image_size, mode_name, priors, mask, ignore_threshold);
  const std::vector<int64_t> per_image = load_counts("match_cells", counts, gt_boxes.size(0));
  const int64_t rows = predictions.size(1);
  Tensor matches = new_dense(predictions, {predictions.size(0), rows}, ScalarType::Long);
  Tensor predictors = new_dense(predictions, {gt_boxes.size(0)}, ScalarType::Long);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    CellMatching<T> m;
    m.rows = rows;
    m.of_cell = rows / (grid[0] * grid[1]);
    m.grid = {{grid[1], static_cast<T>(image_size[1])}, {grid[0], static_cast<T>(image_size[0])}};
    m.mode = mode;
    m.priors = load_priors<T>(priors);
    m.mask = mask.value_or(std::vector<int64_t>());
    m.matches = matches.mutable_data_ptr<int64_t>();
    m.predictors = predictors.mutable_data_ptr<int64_t>();
    if (matches.numel() > 0) match_cells_as(m, predictions, gt_boxes, per_image, ignore_threshold);
  };
  wide_dtype(predictions, gt_boxes) == ScalarType::Double ? run(double()) : run(float());
  return {matches, predictors};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "match_cells(Tensor predictions, Tensor gt_boxes, Tensor counts, SymInt[] grid, SymInt[] image_size, "
      "str mode='shape', Tensor? priors=None, int[]? mask=None, float? ignore_threshold=None) "
      "-> (Tensor matches, Tensor predictors)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("match_cells", TORCH_BOX(&match_cells_cpu)); }

}  // namespace pydet
