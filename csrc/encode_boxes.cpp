#include <tuple>

#include "box_codes.h"

#define PYDET_KERNELS "cpu/encode_boxes.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

Tensor encode_boxes_cpu(const Tensor& reference_boxes,  // [..., N, 4]
                        const Tensor& proposals,        // [..., N, 4]
                        std::vector<double> weights) {
  check_encode_boxes(reference_boxes, proposals, weights);
  const ScalarType dtype = wide_dtype(reference_boxes, proposals);
  Tensor codes = new_dense(reference_boxes, shape_vector(reference_boxes), dtype);
  if (codes.numel() == 0) return codes;
  const Tensor targets = as_contiguous(reference_boxes, dtype), boxes = as_contiguous(proposals, dtype);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const CodeWeights<T> factors = code_weights<T>(weights);
    const T *target_data = targets.const_data_ptr<T>(), *box_data = boxes.const_data_ptr<T>();
    T* out = codes.mutable_data_ptr<T>();
    for_rows_of_shared_boxes(targets.numel() / 4, boxes.numel() / 4, 1, [&](int64_t row, int64_t box, int64_t count) {
      PYDET_CPU_CALL(encode_rows, target_data + 4 * row, box_data + 4 * box, count, factors, out + 4 * row);
    });
  };
  dtype == ScalarType::Double ? run(double()) : run(float());
  return codes;
}

// The gradient of shared proposals comes for each row of reference_boxes, still to be summed.
std::tuple<Tensor, Tensor> encode_boxes_backward_cpu(const Tensor& grad, const Tensor& reference_boxes,
                                                     const Tensor& proposals, std::vector<double> weights) {
  check_encode_boxes_backward(grad, reference_boxes, proposals, weights);
  const ScalarType dtype = wide_dtype(reference_boxes, proposals);
  Tensor grad_targets = new_dense(grad, shape_vector(grad), dtype);
  Tensor grad_boxes = new_dense(grad, shape_vector(grad), dtype);
  if (grad.numel() == 0) return {grad_targets, grad_boxes};
  const Tensor grads = as_contiguous(grad, dtype);
  const Tensor targets = as_contiguous(reference_boxes, dtype), boxes = as_contiguous(proposals, dtype);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const CodeWeights<T> factors = code_weights<T>(weights);
    const T *grad_data = grads.const_data_ptr<T>(), *target_data = targets.const_data_ptr<T>();
    const T* box_data = boxes.const_data_ptr<T>();
    T *out_targets = grad_targets.mutable_data_ptr<T>(), *out_boxes = grad_boxes.mutable_data_ptr<T>();
    for_rows_of_shared_boxes(targets.numel() / 4, boxes.numel() / 4, 1, [&](int64_t row, int64_t box, int64_t count) {
      PYDET_CPU_CALL(encode_rows_gradient, grad_data + 4 * row, target_data + 4 * row, box_data + 4 * box, count,
                     factors, out_targets + 4 * row, out_boxes + 4 * row);
    });
  };
  dtype == ScalarType::Double ? run(double()) : run(float());
  return {grad_targets, grad_boxes};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("encode_boxes(Tensor reference_boxes, Tensor proposals, float[] weights=[1.0, 1.0, 1.0, 1.0]) -> Tensor");
  m.def(
      "_encode_boxes_backward(Tensor grad, Tensor reference_boxes, Tensor proposals, float[] weights) -> (Tensor, "
      "Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("encode_boxes", TORCH_BOX(&encode_boxes_cpu));
  m.impl("_encode_boxes_backward", TORCH_BOX(&encode_boxes_backward_cpu));
}

}  // namespace pydet
