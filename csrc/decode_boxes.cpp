#include <tuple>

#include "box_codes.h"

#define PYDET_KERNELS "cpu/decode_boxes.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

template <typename T>
void decode_fill(const Tensor& codes, const Tensor& boxes, const CodeWeights<T>& weights, T clip, Tensor& decoded) {
  const int64_t width = codes.size(-1);
  const T* code_data = codes.const_data_ptr<T>();
  const T* box_data = boxes.const_data_ptr<T>();
  T* out = decoded.mutable_data_ptr<T>();
  for_rows_of_shared_boxes(codes.numel() / width, boxes.numel() / 4, width / 4,
                           [&](int64_t row, int64_t box, int64_t count) {
                             PYDET_CPU_CALL(decode_rows, code_data + width * row, box_data + 4 * box, count, width / 4,
                                            weights, clip, out + width * row);
                           });
}

Tensor decode_boxes_cpu(const Tensor& rel_codes,  // [..., N, 4 * K]
                        const Tensor& boxes,      // [..., N, 4]
                        std::vector<double> weights, double bbox_xform_clip) {
  check_decode_boxes(rel_codes, boxes, weights, bbox_xform_clip);
  const ScalarType dtype = code_dtype(rel_codes, boxes);
  Tensor decoded = new_dense(rel_codes, shape_vector(rel_codes), dtype);
  if (decoded.numel() == 0) return decoded;
  const Tensor codes = as_contiguous(rel_codes, dtype), dense = as_contiguous(boxes, dtype);
  if (dtype == ScalarType::Double) {
    decode_fill(codes, dense, code_weights<double>(weights), bbox_xform_clip, decoded);
  } else {
    decode_fill(codes, dense, code_weights<float>(weights), static_cast<float>(bbox_xform_clip), decoded);
  }
  return decoded;
}

template <typename T>
void decode_gradient_fill(const Tensor& grad, const Tensor& codes, const Tensor& boxes, const CodeWeights<T>& weights,
                          T clip, Tensor& grad_codes, Tensor& grad_boxes) {
  const int64_t width = codes.size(-1);
  const T* grad_data = grad.const_data_ptr<T>();
  const T* code_data = codes.const_data_ptr<T>();
  const T* box_data = boxes.const_data_ptr<T>();
  T* out_codes = grad_codes.mutable_data_ptr<T>();
  T* out_boxes = grad_boxes.mutable_data_ptr<T>();
  for_rows_of_shared_boxes(
      codes.numel() / width, boxes.numel() / 4, width / 4, [&](int64_t row, int64_t box, int64_t count) {
        PYDET_CPU_CALL(decode_rows_gradient, grad_data + width * row, code_data + width * row, box_data + 4 * box,
                       count, width / 4, weights, clip, out_codes + width * row, out_boxes + 4 * row);
      });
}

// The gradient of shared boxes comes for each row of rel_codes, still to be summed.
std::tuple<Tensor, Tensor> decode_boxes_backward_cpu(const Tensor& grad, const Tensor& rel_codes, const Tensor& boxes,
                                                     std::vector<double> weights, double bbox_xform_clip) {
  check_decode_boxes(rel_codes, boxes, weights, bbox_xform_clip);
  check_code_gradient("_decode_boxes_backward", grad, rel_codes);
  const ScalarType dtype = code_dtype(rel_codes, boxes);
  std::vector<int64_t> box_shape = shape_vector(rel_codes);
  box_shape.back() = 4;
  Tensor grad_codes = new_dense(grad, shape_vector(grad), dtype);
  Tensor grad_boxes = new_dense(grad, box_shape, dtype);
  if (grad.numel() == 0) return {grad_codes, torch::stable::zero_(grad_boxes)};
  const Tensor dense_grad = as_contiguous(grad, dtype), codes = as_contiguous(rel_codes, dtype);
  const Tensor dense = as_contiguous(boxes, dtype);
  if (dtype == ScalarType::Double) {
    decode_gradient_fill(dense_grad, codes, dense, code_weights<double>(weights), bbox_xform_clip, grad_codes,
                         grad_boxes);
  } else {
    decode_gradient_fill(dense_grad, codes, dense, code_weights<float>(weights), static_cast<float>(bbox_xform_clip),
                         grad_codes, grad_boxes);
  }
  return {grad_codes, grad_boxes};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "decode_boxes(Tensor rel_codes, Tensor boxes, float[] weights=[1.0, 1.0, 1.0, 1.0], "
      "float bbox_xform_clip=4.135166556742356) -> Tensor");
  m.def(
      "_decode_boxes_backward(Tensor grad, Tensor rel_codes, Tensor boxes, float[] weights, float bbox_xform_clip) "
      "-> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("decode_boxes", TORCH_BOX(&decode_boxes_cpu));
  m.impl("_decode_boxes_backward", TORCH_BOX(&decode_boxes_backward_cpu));
}

}  // namespace pydet
