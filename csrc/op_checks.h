// The contract of each operator, checked before anything is read; the CPU and the CUDA entry both call it.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "detection_math.h"
#include "torch_utils.h"

namespace pydet {

inline void check_same_device(const char* op, const char* name1, const Tensor& t1, const char* name2,
                              const Tensor& t2) {
  PYDET_CHECK(t1.is_cuda() == t2.is_cuda() && t1.get_device_index() == t2.get_device_index(), op, ": ", name1, " and ",
              name2, " must be on one device, got ", t1.is_cuda() ? "cuda:" : "cpu:", t1.get_device_index(), " and ",
              t2.is_cuda() ? "cuda:" : "cpu:", t2.get_device_index());
}

inline void check_box_dtype(const char* op, const char* name, const Tensor& t) {
  PYDET_CHECK(is_floating(t.scalar_type()) || is_integral(t.scalar_type()), op, ": ", name,
              " must be a floating or integer tensor, got ", dtype_of(t));
}

inline BoxFormat check_box_format(const char* op, const std::string& fmt) {
  if (fmt == "xyxy") return BoxFormat::xyxy;
  if (fmt == "xywh") return BoxFormat::xywh;
  PYDET_CHECK(fmt == "cxcywh", op, ": fmt must be 'xyxy', 'xywh' or 'cxcywh', got '", fmt, "'");
  return BoxFormat::cxcywh;
}

inline BoxFormat check_box_iou(const Tensor& boxes1,  // [..., N, 4]
                               const Tensor& boxes2,  // [..., M, 4]
                               const std::string& fmt) {
  const char* op = "box_iou";
  check_box_dtype(op, "boxes1", boxes1);
  check_box_dtype(op, "boxes2", boxes2);
  PYDET_CHECK(boxes1.dim() >= 2 && boxes1.size(-1) == 4, op, ": boxes1 must be [..., N, 4], got ", shape_of(boxes1));
  PYDET_CHECK(boxes2.dim() >= 2 && boxes2.size(-1) == 4, op, ": boxes2 must be [..., M, 4], got ", shape_of(boxes2));
  bool same_batch = boxes1.dim() == boxes2.dim();
  for (int64_t d = 0; same_batch && d < boxes1.dim() - 2; ++d) same_batch = boxes1.size(d) == boxes2.size(d);
  PYDET_CHECK(same_batch, op, ": boxes1 and boxes2 must have the same leading dimensions, got ", shape_of(boxes1),
              " and ", shape_of(boxes2));
  check_same_device(op, "boxes1", boxes1, "boxes2", boxes2);
  return check_box_format(op, fmt);
}

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

// float64 for float64 and integer boxes, float32 for everything narrower: half precision overflows on areas.
inline bool computes_in_double(const Tensor& boxes) {
  return boxes.scalar_type() == ScalarType::Double || is_integral(boxes.scalar_type());
}

// The values of `anchors` are checked where they are read: on a GPU that would wait for the device.
inline void check_yolo_decode(const Tensor& inputs,   // [B, A * (5 + C), H, W]
                              const Tensor& anchors,  // [A, 2]
                              const std::vector<int64_t>& image_size) {
  const char* op = "yolo_decode";
  PYDET_CHECK(is_floating(inputs.scalar_type()), op, ": inputs must be a floating tensor, got ", dtype_of(inputs));
  PYDET_CHECK(is_floating(anchors.scalar_type()), op, ": anchors must be a floating tensor, got ", dtype_of(anchors));
  PYDET_CHECK(inputs.dim() == 4, op, ": inputs must be [B, A * (5 + C), H, W], got ", shape_of(inputs));
  PYDET_CHECK(anchors.dim() == 2 && anchors.size(0) >= 1 && anchors.size(1) == 2, op,
              ": anchors must be [A, 2] with A >= 1, got ", shape_of(anchors));
  const int64_t per_anchor = inputs.size(1) / anchors.size(0);
  PYDET_CHECK(inputs.size(1) % anchors.size(0) == 0 && per_anchor >= 6, op,
              ": inputs must have A * (5 + C) channels, C >= 1, for the A = ", anchors.size(0), " anchors, got ",
              shape_of(inputs));
  PYDET_CHECK(image_size.size() == 2, op, ": image_size must be (height, width), got ", image_size.size(), " values");
  PYDET_CHECK(image_size[0] > 0 && image_size[1] > 0, op, ": image_size must be positive, got (", image_size[0], ", ",
              image_size[1], ")");
  check_same_device(op, "inputs", inputs, "anchors", anchors);
}

enum class Reduction : int { none, mean, sum };

inline Reduction check_reduction(const char* op, const std::string& reduction) {
  if (reduction == "none") return Reduction::none;
  if (reduction == "mean") return Reduction::mean;
  PYDET_CHECK(reduction == "sum", op, ": reduction must be 'none', 'mean' or 'sum', got '", reduction, "'");
  return Reduction::sum;
}

inline void check_gamma(const char* op, double gamma) {
  PYDET_CHECK(gamma >= 0 && gamma < std::numeric_limits<double>::infinity(), op,
              ": gamma must be finite and not negative, got ", gamma);
}

// Floating targets hold a label for each logit, integers a class for each row. The classes themselves are checked where
// they are read: on a GPU that would wait for the device.
inline Reduction check_sigmoid_focal_loss(const Tensor& inputs,   // [...] or [..., C]
                                          const Tensor& targets,  // the same, or integers [...]
                                          double alpha, double gamma, const std::string& reduction) {
  const char* op = "sigmoid_focal_loss";
  PYDET_CHECK(is_floating(inputs.scalar_type()), op, ": inputs must be a floating tensor, got ", dtype_of(inputs));
  const bool classes = is_integral(targets.scalar_type());
  PYDET_CHECK(classes || is_floating(targets.scalar_type()), op, ": targets must be a floating or integer tensor, got ",
              dtype_of(targets));
  bool fits = targets.dim() == inputs.dim() - (classes ? 1 : 0);
  for (int64_t d = 0; fits && d < targets.dim(); ++d) fits = targets.size(d) == inputs.size(d);
  PYDET_CHECK(fits, op, ": ",
              classes ? "integer targets must be classes of shape inputs.shape[:-1]"
                      : "floating targets must have the shape of inputs",
              ", with inputs ", shape_of(inputs), ", got ", shape_of(targets));
  PYDET_CHECK((alpha >= 0 && alpha <= 1) || alpha == -1, op, ": alpha must be in [0, 1], or -1 for no weights, got ",
              alpha);
  check_gamma(op, gamma);
  check_same_device(op, "inputs", inputs, "targets", targets);
  return check_reduction(op, reduction);
}

inline Reduction check_softmax_focal_loss(const Tensor& inputs,                 // [N, C]
                                          const Tensor& targets,                // [N]
                                          double gamma, double alpha,
                                          const std::optional<Tensor>& weight,  // [C]
                                          const std::string& reduction) {
  const char* op = "softmax_focal_loss";
  PYDET_CHECK(is_floating(inputs.scalar_type()), op, ": inputs must be a floating tensor, got ", dtype_of(inputs));
  PYDET_CHECK(inputs.dim() == 2 && inputs.size(1) >= 1, op, ": inputs must be [N, C] with C >= 1, got ",
              shape_of(inputs));
  PYDET_CHECK(is_integral(targets.scalar_type()), op, ": targets must be an integer tensor, got ", dtype_of(targets));
  PYDET_CHECK(targets.dim() == 1 && targets.size(0) == inputs.size(0), op,
              ": targets must be [N] with N = ", inputs.size(0), " as in inputs, got ", shape_of(targets));
  check_same_device(op, "inputs", inputs, "targets", targets);
  if (weight) {
    PYDET_CHECK(is_floating(weight->scalar_type()), op, ": weight must be a floating tensor, got ", dtype_of(*weight));
    PYDET_CHECK(weight->dim() == 1 && weight->size(0) == inputs.size(1), op,
                ": weight must be [C] with C = ", inputs.size(1), " as in inputs, got ", shape_of(*weight));
    check_same_device(op, "inputs", inputs, "weight", *weight);
  }
  check_gamma(op, gamma);
  PYDET_CHECK((alpha >= 0 && alpha < std::numeric_limits<double>::infinity()) || alpha == -1, op,
              ": alpha must be finite and not negative, or -1 for no weight, got ", alpha);
  return check_reduction(op, reduction);
}

}  // namespace pydet
