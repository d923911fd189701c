// The contract of each operator, checked before anything is read; the CPU and the CUDA entry both call it.
#pragma once

#include <vector>

#include "detection_math.h"
#include "torch_utils.h"

namespace pydet {

inline void check_same_device(const char* op, const char* name1, const Tensor& t1, const char* name2, const Tensor& t2) {
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

}  // namespace pydet
