#include <tuple>

#include "box_codes.h"

#define PYDET_KERNELS "cpu/encode_boxes.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

template <typename T>
void encode_fill(const Tensor& targets, const Tensor& boxes, const CodeWeights<T>& weights, Tensor& codes) {
  const T* target_data = targets.const_data_ptr<T>();
  const T* box_data = boxes.const_data_ptr<T>();
  T* out = codes.mutable_data_ptr<T>();
  for_rows_of_shared_boxes(targets.numel() / 4, boxes.numel() / 4, 1, [&](int64_t row, int64_t box, int64_t count) {
    PYDET_CPU_CALL(encode_rows, target_data + 4 * row, box_data + 4 * box, count, weights, out + 4 * row);
  });
}

Tensor encode_boxes_cpu(const Tensor& reference_boxes,  // [..., N, 4]
                        const Tensor& proposals,        // [..., N, 4]
                        std::vector<double> weights) {
  check_encode_boxes(reference_boxes, proposals, weights);
  const ScalarType dtype = code_dtype(reference_boxes, proposals);
  Tensor codes = new_dense(reference_boxes, shape_vector(reference_boxes), dtype);
  if (codes.numel() == 0) return codes;
  const Tensor targets = as_contiguous(reference_boxes, dtype), boxes = as_contiguous(proposals, dtype);
  if (dtype == ScalarType::Double) {
    encode_fill(targets, boxes, code_weights<double>(weights), codes);
  } else {
    encode_fill(targets, boxes, code_weights<float>(weights), codes);
  }
  return codes;
}

template <typename T>
void encode_gradient_fill(const Tensor& grad, const Tensor& targets, const Tensor& boxes, const CodeWeights<T>& weights,
                          Tensor& grad_targets, Tensor& grad_boxes) {
  const T* grad_data = grad.const_data_ptr<T>();
  const T* target_data = targets.const_data_ptr<T>();
  const T* box_data = boxes.const_data_ptr<T>();
  T* out_targets = grad_targets.mutable_data_ptr<T>();
  T* out_boxes = grad_boxes.mutable_data_ptr<T>();
  for_rows_of_shared_boxes(targets.numel() / 4, boxes.numel() / 4, 1, [&](int64_t row, int64_t box, int64_t count) {
    PYDET_CPU_CALL(encode_rows_gradient, grad_data + 4 * row, target_data + 4 * row, box_data + 4 * box, count, weights,
                   out_targets + 4 * row, out_boxes + 4 * row);
  });
}

// The gradient of shared proposals comes for each row of reference_boxes, still to be summed.
std::tuple<Tensor, Tensor> encode_boxes_backward_cpu(const Tensor& grad, const Tensor& reference_boxes,
                                                     const Tensor& proposals, std::vector<double> weights) {
  check_encode_boxes(reference_boxes, proposals, weights);
  check_code_gradient("_encode_boxes_backward", grad, reference_boxes);
  const ScalarType dtype = code_dtype(reference_boxes, proposals);
  Tensor grad_targets = new_dense(grad, shape_vector(grad), dtype);
  Tensor grad_boxes = new_dense(grad, shape_vector(grad), dtype);
  if (grad.numel() == 0) return {grad_targets, grad_boxes};
  const Tensor dense = as_contiguous(grad, dtype);
  const Tensor targets = as_contiguous(reference_boxes, dtype), boxes = as_contiguous(proposals, dtype);
  if (dtype == ScalarType::Double) {
    encode_gradient_fill(dense, targets, boxes, code_weights<double>(weights), grad_targets, grad_boxes);
  } else {
    encode_gradient_fill(dense, targets, boxes, code_weights<float>(weights), grad_targets, grad_boxes);
  }
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
