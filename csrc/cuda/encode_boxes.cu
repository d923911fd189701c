#include <tuple>

#include "box_codes.cuh"

namespace pydet {
namespace {

template <typename T, typename In>
__global__ void __launch_bounds__(kCodeThreads)
    encode_boxes_kernel(const In* targets,  // [sharing, boxes, 4]
                        const In* boxes,    // [boxes, 4]
                        CodeRows rows, CodeWeights<T> weights, T* codes) {  // [sharing, boxes, 4]
  const int64_t i = box_of_thread(1);
  if (i >= rows.boxes) return;
  const Four<T> box = load_four<T>(boxes, i);
  for (int64_t group = blockIdx.y; group < rows.sharing; group += gridDim.y) {
    const int64_t row = group * rows.boxes + i;
    const Four<T> target = load_four<T>(targets, row);
    const AxisCode<T> x = encode_axis<T>({target.x1, target.x2}, {box.x1, box.x2}, weights.x);
    const AxisCode<T> y = encode_axis<T>({target.y1, target.y2}, {box.y1, box.y2}, weights.y);
    store_four<T>(codes, row, {x.centre, y.centre, x.size, y.size});
  }
}

template <typename T, typename In>
__global__ void __launch_bounds__(kCodeThreads) encode_boxes_backward_kernel(const T* grads,  // [sharing, boxes, 4]
                                                                             const In* targets,  // [sharing, boxes, 4]
                                                                             const In* boxes,  // [boxes, 4]
                                                                             CodeRows rows, CodeWeights<T> weights,
                                                                             T* grad_targets,  // [sharing, boxes, 4]
                                                                             T* grad_boxes) {  // [sharing, boxes, 4]
  const int64_t i = box_of_thread(1);
  if (i >= rows.boxes) return;
  const Four<T> box = load_four<T>(boxes, i);
  for (int64_t group = blockIdx.y; group < rows.sharing; group += gridDim.y) {
    const int64_t row = group * rows.boxes + i;
    const Four<T> grad = load_four<T>(grads, row), target = load_four<T>(targets, row);  // of a code: its centres first
    const EncodeGradient<T> x =
        encode_axis_gradient<T>({target.x1, target.x2}, {box.x1, box.x2}, weights.x, {grad.x1, grad.x2});
    const EncodeGradient<T> y =
        encode_axis_gradient<T>({target.y1, target.y2}, {box.y1, box.y2}, weights.y, {grad.y1, grad.y2});
    store_four<T>(grad_targets, row, {x.target.low, y.target.low, x.target.high, y.target.high});
    store_four<T>(grad_boxes, row, {x.box.low, y.box.low, x.box.high, y.box.high});
  }
}

Tensor encode_boxes_cuda(const Tensor& reference_boxes,  // [..., N, 4]
                         const Tensor& proposals,  // [..., N, 4]
                         std::vector<double> weights) {
  check_encode_boxes(reference_boxes, proposals, weights);
  const DeviceGuard guard(reference_boxes.get_device_index());
  Tensor codes = new_dense(reference_boxes, shape_vector(reference_boxes), wide_dtype(reference_boxes, proposals));
  if (codes.numel() == 0) return codes;
  const ScalarType dtype = input_dtype(reference_boxes, proposals);
  const Tensor targets = rows_of_four(reference_boxes, dtype), boxes = rows_of_four(proposals, dtype);
  const CodeRows rows = code_rows(targets, boxes);
  const cudaStream_t stream = current_stream(reference_boxes);
  PYDET_DISPATCH_FLOATING(dtype, "encode_boxes", [&] {
    using T = Wide<scalar_t>;
    launch(encode_boxes_kernel<T, scalar_t>, grid_of(rows), dim3(kCodeThreads), 0, stream,
           targets.const_data_ptr<scalar_t>(), boxes.const_data_ptr<scalar_t>(), rows, code_weights<T>(weights),
           codes.mutable_data_ptr<T>());
  });
  return codes;
}

// The gradient of shared proposals comes for each row of reference_boxes, still to be summed.
std::tuple<Tensor, Tensor> encode_boxes_backward_cuda(const Tensor& grad, const Tensor& reference_boxes,
                                                      const Tensor& proposals, std::vector<double> weights) {
  check_encode_boxes_backward(grad, reference_boxes, proposals, weights);
  const DeviceGuard guard(reference_boxes.get_device_index());
  const ScalarType out_dtype = wide_dtype(reference_boxes, proposals), dtype = input_dtype(reference_boxes, proposals);
  Tensor grad_targets = new_dense(grad, shape_vector(grad), out_dtype);
  Tensor grad_boxes = new_dense(grad, shape_vector(grad), out_dtype);
  if (grad.numel() == 0) return {grad_targets, grad_boxes};
  const Tensor grads = rows_of_four(grad, out_dtype);
  const Tensor targets = rows_of_four(reference_boxes, dtype), boxes = rows_of_four(proposals, dtype);
  const CodeRows rows = code_rows(targets, boxes);
  const cudaStream_t stream = current_stream(grad);
  PYDET_DISPATCH_FLOATING(dtype, "_encode_boxes_backward", [&] {
    using T = Wide<scalar_t>;
    launch(encode_boxes_backward_kernel<T, scalar_t>, grid_of(rows), dim3(kCodeThreads), 0, stream,
           grads.const_data_ptr<T>(), targets.const_data_ptr<scalar_t>(), boxes.const_data_ptr<scalar_t>(), rows,
           code_weights<T>(weights), grad_targets.mutable_data_ptr<T>(), grad_boxes.mutable_data_ptr<T>());
  });
  return {grad_targets, grad_boxes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("encode_boxes", TORCH_BOX(&encode_boxes_cuda));
  m.impl("_encode_boxes_backward", TORCH_BOX(&encode_boxes_backward_cuda));
}

}  // namespace pydet
