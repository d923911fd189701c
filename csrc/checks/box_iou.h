// Contracts of the IoU family and its losses.
#pragma once

#include "../math/box.h"
#include "common.h"

namespace pydet {

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
inline void check_all_pairs(const char* op,
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

// Each box of one set with the box at the same place of another.
inline void check_aligned_pairs(const char* op,
                                const Tensor& boxes1,    // [..., 4]
                                const Tensor& boxes2) {  // [..., 4]
  check_box_dtype(op, "boxes1", boxes1);
  check_box_dtype(op, "boxes2", boxes2);
  PYDET_CHECK(boxes1.dim() >= 1 && boxes1.size(-1) == 4, op, ": boxes1 must be [..., 4], got ", shape_of(boxes1));
  PYDET_CHECK(boxes1.sizes() == boxes2.sizes(), op, ": boxes2 must be ", shape_of(boxes1), " as boxes1, got ",
              shape_of(boxes2));
  check_same_device(op, "boxes1", boxes1, "boxes2", boxes2);
}

inline BoxFormat check_box_iou(const char* op, const Tensor& boxes1, const Tensor& boxes2, const std::string& fmt,
                               bool aligned) {
  if (aligned) {
    check_aligned_pairs(op, boxes1, boxes2);
  } else {
    check_all_pairs(op, boxes1, boxes2);
  }
  return check_box_format(op, fmt);
}

// [..., N, M] of all pairs, [..., N] of aligned ones.
inline std::vector<int64_t> pairs_shape(const Tensor& boxes1, const Tensor& boxes2, bool aligned) {
  std::vector<int64_t> shape(boxes1.sizes().begin(), boxes1.sizes().end() - 1);
  if (!aligned) shape.push_back(boxes2.size(-2));
  return shape;
}

inline BoxFormat check_box_iou_backward(const char* op, const Tensor& gradient, const Tensor& boxes1,
                                        const Tensor& boxes2, const std::string& fmt, bool aligned) {
  const BoxFormat format = check_box_iou(op, boxes1, boxes2, fmt, aligned);
  check_gradient(op, gradient, pairs_shape(boxes1, boxes2, aligned), "boxes1", boxes1);
  return format;
}

inline Reduction check_box_iou_loss(const char* op,
                                    const Tensor& boxes1,  // [..., 4]
                                    const Tensor& boxes2,  // [..., 4]
                                    const std::string& reduction) {
  check_aligned_pairs(op, boxes1, boxes2);
  return check_reduction(op, reduction);
}

inline std::vector<int64_t> losses_shape(const Tensor& boxes, Reduction reduction) {
  return reduction == Reduction::none ? pairs_shape(boxes, boxes, true) : std::vector<int64_t>{};
}

inline Reduction check_box_iou_loss_backward(const char* op, const Tensor& gradient, const Tensor& boxes1,
                                             const Tensor& boxes2, const std::string& reduction) {
  const Reduction how = check_box_iou_loss(op, boxes1, boxes2, reduction);
  check_gradient(op, gradient, losses_shape(boxes1, how), "boxes1", boxes1);
  return how;
}

// float64 for float64 and integer boxes, float32 for everything narrower: half precision overflows on areas.
inline bool computes_in_double(const Tensor& boxes1, const Tensor& boxes2) {
  return wide_dtype(boxes1, boxes2) == ScalarType::Double || is_integral(boxes1.scalar_type()) ||
         is_integral(boxes2.scalar_type());
}

}  // namespace pydet
