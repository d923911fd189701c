// Contracts of the NMS family.
#pragma once

#include <optional>
#include <vector>

#include "../math/soft_nms.h"
#include "common.h"

namespace pydet {

inline void check_nms(const char* op,
                      const Tensor& boxes,   // [N, 4]
                      const Tensor& scores,  // [N]
                      double iou_threshold) {
  PYDET_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, op, ": boxes must be [N, 4], got ", shape_of(boxes));
  PYDET_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0), op, ": scores must be [N] with N = ", boxes.size(0),
              " as in boxes, got ", shape_of(scores));
  PYDET_CHECK(is_floating(boxes.scalar_type()), op, ": boxes must be a floating tensor, got ", dtype_of(boxes));
  PYDET_CHECK(is_floating(scores.scalar_type()), op, ": scores must be a floating tensor, got ", dtype_of(scores));
  PYDET_CHECK(iou_threshold == iou_threshold, op, ": iou_threshold must be a number, got nan");
  PYDET_CHECK(boxes.size(0) <= INT32_MAX, op, ": boxes must be at most 2147483647, got ", boxes.size(0));
  check_same_device(op, "boxes", boxes, "scores", scores);
}

inline void check_batched_nms(const Tensor& boxes,   // [N, 4]
                              const Tensor& scores,  // [N]
                              const Tensor& idxs,    // [N]
                              double iou_threshold) {
  const char* op = "batched_nms";
  check_nms(op, boxes, scores, iou_threshold);
  PYDET_CHECK(idxs.dim() == 1 && idxs.size(0) == boxes.size(0), op, ": idxs must be [N] with N = ", boxes.size(0),
              " as in boxes, got ", shape_of(idxs));
  PYDET_CHECK(is_integral(idxs.scalar_type()) || is_floating(idxs.scalar_type()), op,
              ": idxs must be an integer or floating tensor, got ", dtype_of(idxs));
  check_same_device(op, "boxes", boxes, "idxs", idxs);
}

// Returns whether every class has boxes of its own.
inline bool check_multiclass_nms(const Tensor& boxes,   // [B, N, 4] or [B, N, C, 4]
                                 const Tensor& scores,  // [B, N, C]
                                 double score_threshold, double iou_threshold, int64_t max_per_image,
                                 std::optional<int64_t> pre_nms_top_k) {
  const char* op = "multiclass_nms";
  PYDET_CHECK(scores.dim() == 3, op, ": scores must be [B, N, C], got ", shape_of(scores));
  const bool per_class = boxes.dim() == 4;
  bool fits = (boxes.dim() == 3 || per_class) && boxes.size(-1) == 4;
  for (int64_t d = 0; fits && d < boxes.dim() - 1; ++d) fits = boxes.size(d) == scores.size(d);
  PYDET_CHECK(fits, op, ": boxes must be [B, N, 4] or [B, N, C, 4] with [B, N, C] = ", shape_of(scores),
              " as in scores, got ", shape_of(boxes));
  PYDET_CHECK(is_floating(boxes.scalar_type()), op, ": boxes must be a floating tensor, got ", dtype_of(boxes));
  PYDET_CHECK(is_floating(scores.scalar_type()), op, ": scores must be a floating tensor, got ", dtype_of(scores));
  PYDET_CHECK(score_threshold == score_threshold, op, ": score_threshold must be a number, got nan");
  PYDET_CHECK(iou_threshold == iou_threshold, op, ": iou_threshold must be a number, got nan");
  PYDET_CHECK(max_per_image >= 1, op, ": max_per_image must be at least 1, got ", max_per_image);
  PYDET_CHECK(!pre_nms_top_k || *pre_nms_top_k >= 1, op, ": pre_nms_top_k must be None or at least 1, got ",
              pre_nms_top_k.value_or(0));
  PYDET_CHECK(scores.size(2) == 0 || scores.size(1) <= INT32_MAX / scores.size(2), op,
              ": scores of an image must be at most 2147483647, got ", shape_of(scores));
  check_same_device(op, "boxes", boxes, "scores", scores);
  return per_class;
}

inline SoftNmsMethod check_soft_nms(const Tensor& boxes,   // [N, 4]
                                    const Tensor& scores,  // [N]
                                    double iou_threshold, double sigma, double min_score, const std::string& method,
                                    int64_t offset) {
  const char* op = "soft_nms";
  check_nms(op, boxes, scores, iou_threshold);
  PYDET_CHECK(sigma > 0, op, ": sigma must be positive, got ", sigma);
  PYDET_CHECK(min_score == min_score, op, ": min_score must be a number, got nan");
  PYDET_CHECK(offset == 0 || offset == 1, op, ": offset must be 0 or 1, got ", offset);
  if (method == "naive") return SoftNmsMethod::naive;
  if (method == "linear") return SoftNmsMethod::linear;
  PYDET_CHECK(method == "gaussian", op, ": method must be 'naive', 'linear' or 'gaussian', got '", method, "'");
  return SoftNmsMethod::gaussian;
}

}  // namespace pydet
