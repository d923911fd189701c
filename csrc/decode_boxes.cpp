#include <tuple>

#include "box_codes.h"

#define PYDET_KERNELS "cpu/decode_boxes.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

Tensor decode_boxes_cpu(const Tensor& rel_codes,  // [..., N, 4 * K]
                        const Tensor& boxes,      // [..., N, 4]
                        std::vector<double> weights, double bbox_xform_clip) {
  check_decode_boxes(rel_codes, boxes, weights, bbox_xform_clip);
  const ScalarType dtype = wide_dtype(rel_codes, boxes);
  Tensor decoded = new_dense(rel_codes, shape_vector(rel_codes), dtype);
  if (decoded.numel() == 0) return decoded;
  const Tensor codes = as_contiguous(rel_codes, dtype), dense = as_contiguous(boxes, dtype);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const CodeWeights<T> factors = code_weights<T>(weights);
    const T clip = static_cast<T>(bbox_xform_clip);
    const T *code_data = codes.const_data_ptr<T>(), *box_data = dense.const_data_ptr<T>();
    T* out = decoded.mutable_data_ptr<T>();
    const int64_t width = codes.size(-1);
    for_rows_of_shared_boxes(codes.numel() / width, dense.numel() / 4, width / 4,
                             [&](int64_t row, int64_t box, int64_t count) {
                               PYDET_CPU_CALL(decode_rows, code_data + width * row, box_data + 4 * box, count,
                                              width / 4, factors, clip, out + width * row);
                             });
  };
  dtype == ScalarType::Double ? run(double()) : run(float());
  return decoded;
}

// The gradient of shared boxes comes for each row of rel_codes, still to be summed.
std::tuple<Tensor, Tensor> decode_boxes_backward_cpu(const Tensor& grad, const Tensor& rel_codes, const Tensor& boxes,
                                                     std::vector<double> weights, double bbox_xform_clip) {
  check_decode_boxes_backward(grad, rel_codes, boxes, weights, bbox_xform_clip);
  const ScalarType dtype = wide_dtype(rel_codes, boxes);
  std::vector<int64_t> box_shape = shape_vector(rel_codes);
  box_shape.back() = 4;
  Tensor grad_codes = new_dense(grad, shape_vector(grad), dtype);
  Tensor grad_boxes = new_dense(grad, box_shape, dtype);
  if (grad.numel() == 0) return {grad_codes, torch::stable::zero_(grad_boxes)};
  const Tensor grads = as_contiguous(grad, dtype);
  const Tensor codes = as_contiguous(rel_codes, dtype), dense = as_contiguous(boxes, dtype);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const CodeWeights<T> factors = code_weights<T>(weights);
    const T clip = static_cast<T>(bbox_xform_clip);
    const T *grad_data = grads.const_data_ptr<T>(), *code_data = codes.const_data_ptr<T>();
    const T* box_data = dense.const_data_ptr<T>();
    T *out_codes = grad_codes.mutable_data_ptr<T>(), *out_boxes = grad_boxes.mutable_data_ptr<T>();
    const int64_t width = codes.size(-1);
    for_rows_of_shared_boxes(
        codes.numel() / width, dense.numel() / 4, width / 4, [&](int64_t row, int64_t box, int64_t count) {
          PYDET_CPU_CALL(decode_rows_gradient, grad_data + width * row, code_data + width * row, box_data + 4 * box,
                         count, width / 4, factors, clip, out_codes + width * row, out_boxes + 4 * row);
        });
  };
  dtype == ScalarType::Double ? run(double()) : run(float());
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
