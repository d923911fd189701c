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

// Every box of one set with every box of another.
inline void check_box_pairs(const char* op,
                            const Tensor& boxes1,    // [..., N, 4]
                            const Tensor& boxes2) {  // [..., M, 4]
  check_box_dtype(op, "boxes1", boxes1);
  check_box_dtype(op, "boxes2", boxes2);
  PYDET_CHECK(boxes1.dim() >= 2 && boxes1.size(-1) == 4, op, ": boxes1 must be [..., N, 4], got ", shape_of(boxes1));
  PYDET_CHECK(boxes2.dim() >= 2 && boxes2.size(-1) == 4, op, ": boxes2 must be [..., M, 4], got ", shape_of(boxes2));
  bool same_batch = boxes1.dim() == boxes2.dim();
  for (int64_t d = 0; same_batch && d < boxes1.dim() - 2; ++d) same_batch = boxes1.size(d) == boxes2.size(d);
  PYDET_CHECK(same_batch, op, ": boxes1 and boxes2 must have the same leading dimensions, got ", shape_of(boxes1),
              " and ", shape_of(boxes2));
  check_same_device(op, "boxes1", boxes1, "boxes2", boxes2);
}

inline BoxFormat check_box_iou(const Tensor& boxes1,  // [..., N, 4]
                               const Tensor& boxes2,  // [..., M, 4]
                               const std::string& fmt) {
  check_box_pairs("box_iou", boxes1, boxes2);
  return check_box_format("box_iou", fmt);
}

// Each box of one set with the box at the same place of another.
inline void check_box_iou_loss(const char* op,
                               const Tensor& boxes1,  // [..., 4]
                               const Tensor& boxes2,  // [..., 4]
                               const std::string& reduction) {
  check_box_dtype(op, "boxes1", boxes1);
  check_box_dtype(op, "boxes2", boxes2);
  PYDET_CHECK(boxes1.dim() >= 1 && boxes1.size(-1) == 4, op, ": boxes1 must be [..., 4], got ", shape_of(boxes1));
  PYDET_CHECK(shape_of(boxes1) == shape_of(boxes2), op, ": boxes2 must be ", shape_of(boxes1), " as boxes1, got ",
              shape_of(boxes2));
  PYDET_CHECK(reduction == "none" || reduction == "mean" || reduction == "sum", op,
              ": reduction must be 'none', 'mean' or 'sum', got '", reduction, "'");
  check_same_device(op, "boxes1", boxes1, "boxes2", boxes2);
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

inline void check_code_weights(const char* op, const std::vector<double>& weights) {
  PYDET_CHECK(weights.size() == 4, op, ": weights must be 4 numbers (x, y, width, height), got ", weights.size());
  for (const double weight : weights) {
    PYDET_CHECK(weight > 0 && weight <= 1e30, op, ": weights must be positive and finite, got ", weight);
  }
}

// The second tensor may have fewer leading dimensions: its boxes are then shared by what the first has more.
inline void check_shared_boxes(const char* op, const char* name1, const Tensor& t1, const char* name2,
                               const Tensor& t2) {
  PYDET_CHECK(is_floating(t1.scalar_type()), op, ": ", name1, " must be a floating tensor, got ", dtype_of(t1));
  PYDET_CHECK(is_floating(t2.scalar_type()), op, ": ", name2, " must be a floating tensor, got ", dtype_of(t2));
  bool same = t2.dim() <= t1.dim();
  for (int64_t d = 2; same && d <= t2.dim(); ++d) same = t1.size(-d) == t2.size(-d);
  PYDET_CHECK(same, op, ": the leading dimensions of ", name2, " must be the last ones of ", name1, ", got ",
              shape_of(t2), " for ", shape_of(t1));
  check_same_device(op, name1, t1, name2, t2);
}

inline void check_encode_boxes(const Tensor& reference_boxes,  // [..., N, 4]
                               const Tensor& proposals,        // [..., N, 4]
                               const std::vector<double>& weights) {
  const char* op = "encode_boxes";
  PYDET_CHECK(reference_boxes.dim() >= 2 && reference_boxes.size(-1) == 4, op,
              ": reference_boxes must be [..., N, 4], got ", shape_of(reference_boxes));
  PYDET_CHECK(proposals.dim() >= 2 && proposals.size(-1) == 4, op, ": proposals must be [..., N, 4], got ",
              shape_of(proposals));
  check_shared_boxes(op, "reference_boxes", reference_boxes, "proposals", proposals);
  check_code_weights(op, weights);
}

inline void check_decode_boxes(const Tensor& rel_codes,  // [..., N, 4 * K]
                               const Tensor& boxes,      // [..., N, 4]
                               const std::vector<double>& weights, double bbox_xform_clip) {
  const char* op = "decode_boxes";
  PYDET_CHECK(rel_codes.dim() >= 2 && rel_codes.size(-1) % 4 == 0, op, ": rel_codes must be [..., N, 4 * K], got ",
              shape_of(rel_codes));
  PYDET_CHECK(boxes.dim() >= 2 && boxes.size(-1) == 4, op, ": boxes must be [..., N, 4], got ", shape_of(boxes));
  check_shared_boxes(op, "rel_codes", rel_codes, "boxes", boxes);
  check_code_weights(op, weights);
  PYDET_CHECK(bbox_xform_clip == bbox_xform_clip, op, ": bbox_xform_clip must be a number, got nan");
}

}  // namespace pydet
