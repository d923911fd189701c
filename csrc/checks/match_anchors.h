// Contracts of match_anchors and match_cells.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "common.h"

namespace pydet {

// What becomes of the anchors on which a ground truth's best IoU lies.
enum class MatchMode : int { threshold, retinanet, ssd };

constexpr int64_t kBackground = -1, kBetween = -2;  // as torchvision's Matcher

// RetinaNet section 4.1; SSD section 2.2 has one threshold.
inline double low_threshold_of(MatchMode mode, double high_threshold, const std::optional<double>& low_threshold) {
  return low_threshold.value_or(mode == MatchMode::retinanet ? std::min(0.4, high_threshold) : high_threshold);
}

// How a ground truth finds its predictor among those of its cell.
enum class CellMode : int { shape, overlap };

constexpr int64_t kIgnored = -2;         // with kBackground for negatives what match_cells has besides ground truths
constexpr int64_t kMostOfMask = 32;      // what fits the arguments of a kernel

inline void check_ragged_truths(const char* op, const Tensor& gt_boxes, const std::optional<Tensor>& counts) {
  PYDET_CHECK(is_floating(gt_boxes.scalar_type()), op, ": gt_boxes must be a floating tensor, got ",
              dtype_of(gt_boxes));
  PYDET_CHECK(gt_boxes.dim() == 2 && gt_boxes.size(1) == 4, op, ": gt_boxes must be [G, 4], got ", shape_of(gt_boxes));
  PYDET_CHECK(gt_boxes.size(0) <= INT32_MAX, op, ": gt_boxes must be at most 2147483647, got ", gt_boxes.size(0));
  if (!counts) return;
  PYDET_CHECK(counts->dim() == 1 && is_integral(counts->scalar_type()), op,
              ": counts must be an integer tensor [B], got ", dtype_of(*counts), " ", shape_of(*counts));
  check_same_device(op, "gt_boxes", gt_boxes, "counts", *counts);
}

// The values of `counts` are checked where they are read: on a GPU that would wait for the device.
inline MatchMode check_match_anchors(const Tensor& anchors,                // [A, 4] or [B, A, 4]
                                     const Tensor& gt_boxes,               // [G, 4]
                                     const std::optional<Tensor>& counts,  // [B]
                                     double high_threshold, const std::optional<double>& low_threshold,
                                     const std::string& mode) {
  const char* op = "match_anchors";
  PYDET_CHECK(is_floating(anchors.scalar_type()), op, ": anchors must be a floating tensor, got ", dtype_of(anchors));
  check_ragged_truths(op, gt_boxes, counts);
  PYDET_CHECK((anchors.dim() == 2 || (anchors.dim() == 3 && counts)) && anchors.size(-1) == 4, op,
              ": anchors must be [A, 4], or [B, A, 4] with counts, got ", shape_of(anchors));
  PYDET_CHECK(!counts || anchors.dim() == 2 || anchors.size(0) == counts->size(0), op,
              ": anchors must be [B, A, 4] with B = ", counts->size(0), " as in counts, got ", shape_of(anchors));
  PYDET_CHECK(anchors.size(-2) <= INT32_MAX, op, ": anchors must be at most 2147483647, got ", anchors.size(-2));
  check_same_device(op, "anchors", anchors, "gt_boxes", gt_boxes);
  PYDET_CHECK(high_threshold == high_threshold, op, ": high_threshold must be a number, got nan");
  PYDET_CHECK(!low_threshold || *low_threshold <= high_threshold, op,
              ": low_threshold must be at most high_threshold = ", high_threshold, ", got ", *low_threshold);
  if (mode == "threshold") return MatchMode::threshold;
  if (mode == "retinanet") return MatchMode::retinanet;
  PYDET_CHECK(mode == "ssd", op, ": mode must be 'retinanet', 'ssd' or 'threshold', got '", mode, "'");
  return MatchMode::ssd;
}

// The values of `counts` and `priors` are checked where they are read.
inline CellMode check_match_cells(const Tensor& predictions,  // [B, H * W * N, 4]
                                  const Tensor& gt_boxes,     // [G, 4]
                                  const Tensor& counts,       // [B]
                                  const std::vector<int64_t>& grid, const std::vector<int64_t>& image_size,
                                  const std::string& mode, const std::optional<Tensor>& priors,  // [K, 2]
                                  const std::optional<std::vector<int64_t>>& mask,               // N of the K
                                  const std::optional<double>& ignore_threshold) {
  const char* op = "match_cells";
  PYDET_CHECK(is_floating(predictions.scalar_type()), op, ": predictions must be a floating tensor, got ",
              dtype_of(predictions));
  check_ragged_truths(op, gt_boxes, counts);
  PYDET_CHECK(predictions.dim() == 3 && predictions.size(2) == 4 && predictions.size(0) == counts.size(0), op,
              ": predictions must be [B, H * W * N, 4] with B = ", counts.size(0), " as in counts, got ",
              shape_of(predictions));
  check_same_device(op, "predictions", predictions, "gt_boxes", gt_boxes);
  for (const auto& [name, size] : {std::pair("grid", grid), std::pair("image_size", image_size)}) {
    PYDET_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0 && size[0] <= INT32_MAX && size[1] <= INT32_MAX, op,
                ": ", name, " must be (height, width), positive 32-bit integers, got ", list_of(size));
  }
  const int64_t rows = predictions.size(1), count = rows / (grid[0] * grid[1]);
  PYDET_CHECK(count >= 1 && count * grid[0] * grid[1] == rows && rows <= INT32_MAX, op,
              ": predictions must have H * W * N rows, N >= 1, for the ", grid[0], " x ", grid[1],
              " grid and fewer than 2^31, got ", rows);
  PYDET_CHECK(!ignore_threshold || *ignore_threshold >= 0, op, ": ignore_threshold must be at least 0, got ",
              *ignore_threshold);
  PYDET_CHECK(mode == "shape" || mode == "overlap", op, ": mode must be 'shape' or 'overlap', got '", mode, "'");
  PYDET_CHECK(!mask || priors, op, ": mask must come with priors, got none");
  if (!priors) return mode == "shape" ? CellMode::shape : CellMode::overlap;
  PYDET_CHECK(mode == "shape", op, ": priors must be left out in mode 'overlap', got ", shape_of(*priors));
  PYDET_CHECK(is_floating(priors->scalar_type()) && priors->dim() == 2 && priors->size(1) == 2, op,
              ": priors must be a floating tensor [K, 2], got ", dtype_of(*priors), " ", shape_of(*priors));
  check_same_device(op, "predictions", predictions, "priors", *priors);
  if (!mask) {
    PYDET_CHECK(priors->size(0) == count, op, ": priors must be [N, 2] with N = ", count,
                " predictions of a cell, or come with a mask, got ", shape_of(*priors));
    return CellMode::shape;
  }
  PYDET_CHECK(static_cast<int64_t>(mask->size()) == count, op, ": mask must have N = ", count,
              " entries, one for each prediction of a cell, got ", list_of(*mask));
  PYDET_CHECK(count <= kMostOfMask, op, ": mask must have at most ", kMostOfMask, " entries, got ", count);
  for (const int64_t prior : *mask) {
    PYDET_CHECK(prior >= 0 && prior < priors->size(0), op, ": mask must be of the ", priors->size(0), " priors, got ",
                list_of(*mask));
  }
  return CellMode::shape;
}

}  // namespace pydet
