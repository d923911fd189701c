// Contracts of encode_boxes and decode_boxes.
#pragma once

#include <vector>

#include "common.h"

namespace pydet {

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

inline void check_encode_boxes_backward(const Tensor& grad, const Tensor& reference_boxes, const Tensor& proposals,
                                        const std::vector<double>& weights) {
  check_encode_boxes(reference_boxes, proposals, weights);
  check_gradient("encode_boxes", grad, shape_vector(reference_boxes), "reference_boxes", reference_boxes);
}

inline void check_decode_boxes_backward(const Tensor& grad, const Tensor& rel_codes, const Tensor& boxes,
                                        const std::vector<double>& weights, double bbox_xform_clip) {
  check_decode_boxes(rel_codes, boxes, weights, bbox_xform_clip);
  check_gradient("decode_boxes", grad, shape_vector(rel_codes), "rel_codes", rel_codes);
}

}  // namespace pydet
