// Contract of match_anchors.
#pragma once

#include <optional>

#include "common.h"

namespace pydet {

// What becomes of the anchors on which a ground truth's best IoU lies.
enum class MatchMode : int { threshold, retinanet, ssd };

// The values of `counts` are checked where they are read: on a GPU that would wait for the device.
inline MatchMode check_match_anchors(const Tensor& anchors,                // [A, 4] or [B, A, 4]
                                     const Tensor& gt_boxes,               // [G, 4]
                                     const std::optional<Tensor>& counts,  // [B]
                                     double high_threshold, const std::optional<double>& low_threshold,
                                     const std::string& mode) {
  const char* op = "match_anchors";
  PYDET_CHECK(is_floating(anchors.scalar_type()), op, ": anchors must be a floating tensor, got ", dtype_of(anchors));
  PYDET_CHECK(is_floating(gt_boxes.scalar_type()), op, ": gt_boxes must be a floating tensor, got ",
              dtype_of(gt_boxes));
  PYDET_CHECK((anchors.dim() == 2 || (anchors.dim() == 3 && counts)) && anchors.size(-1) == 4, op,
              ": anchors must be [A, 4], or [B, A, 4] with counts, got ", shape_of(anchors));
  PYDET_CHECK(gt_boxes.dim() == 2 && gt_boxes.size(1) == 4, op, ": gt_boxes must be [G, 4], got ", shape_of(gt_boxes));
  PYDET_CHECK(anchors.size(-2) <= INT32_MAX, op, ": anchors must be at most 2147483647, got ", anchors.size(-2));
  PYDET_CHECK(gt_boxes.size(0) <= INT32_MAX, op, ": gt_boxes must be at most 2147483647, got ", gt_boxes.size(0));
  check_same_device(op, "anchors", anchors, "gt_boxes", gt_boxes);
  if (counts) {
    PYDET_CHECK(counts->dim() == 1 && is_integral(counts->scalar_type()), op,
                ": counts must be an integer tensor [B], got ", dtype_of(*counts), " ", shape_of(*counts));
    PYDET_CHECK(anchors.dim() == 2 || anchors.size(0) == counts->size(0), op,
                ": anchors must be [B, A, 4] with B = ", counts->size(0), " as in counts, got ", shape_of(anchors));
    check_same_device(op, "anchors", anchors, "counts", *counts);
  }
  PYDET_CHECK(high_threshold == high_threshold, op, ": high_threshold must be a number, got nan");
  PYDET_CHECK(!low_threshold || *low_threshold <= high_threshold, op,
              ": low_threshold must be at most high_threshold = ", high_threshold, ", got ", *low_threshold);
  if (mode == "threshold") return MatchMode::threshold;
  if (mode == "retinanet") return MatchMode::retinanet;
  PYDET_CHECK(mode == "ssd", op, ": mode must be 'retinanet', 'ssd' or 'threshold', got '", mode, "'");
  return MatchMode::ssd;
}

}  // namespace pydet
