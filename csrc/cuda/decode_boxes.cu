#include <tuple>

#include "box_codes.cuh"

namespace pydet {
namespace {

template <typename T, typename In>
__global__ void __launch_bounds__(kCodeThreads)
    decode_boxes_kernel(const In* codes,  // [sharing, boxes, codes, 4]
                        const In* boxes,  // [boxes, 4]
                        CodeRows rows, CodeWeights<T> weights, T clip, T* decoded) {  // [sharing, boxes, codes, 4]
  const int64_t i = box_of_thread(rows.lanes);
  if (i >= rows.boxes) return;
  const Four<T> box = load_four<T>(boxes, i);
  const int lane = static_cast<int>(threadIdx.x) & (rows.lanes - 1);
  for (int64_t group = blockIdx.y; group < rows.sharing; group += gridDim.y) {
    const int64_t first = (group * rows.boxes + i) * rows.codes;
    for (int64_t k = lane; k < rows.codes; k += rows.lanes) {
      const Four<T> code = load_four<T>(codes, first + k);  // its centres first
      const Span<T> x = decode_axis<T>({code.x1, code.x2}, {box.x1, box.x2}, weights.x, clip);
      const Span<T> y = decode_axis<T>({code.y1, code.y2}, {box.y1, box.y2}, weights.y, clip);
      store_four<T>(decoded, first + k, {x.low, y.low, x.high, y.high});
    }
  }
}

// The codes of one box share its gradient, which is summed in their order: the first of the box's threads adds what the
// others give it.
template <typename T, typename In>
__global__ void __launch_bounds__(kCodeThreads)
    decode_boxes_backward_kernel(const T* grads,   // [sharing, boxes, codes, 4]
                                 const In* codes,  // [sharing, boxes, codes, 4]
                                 const In* boxes,  // [boxes, 4]
                                 CodeRows rows, CodeWeights<T> weights, T clip,
                                 T* grad_codes,    // [sharing, boxes, codes, 4]
                                 T* grad_boxes) {  // [sharing, boxes, 4]
  __shared__ Four<T> terms[kCodeThreads];
  const int thread = static_cast<int>(threadIdx.x), lane = thread & (rows.lanes - 1);
  const int64_t i = box_of_thread(rows.lanes);
  const bool inside = i < rows.boxes;  // all stay, since they wait for each other
  const Four<T> box = inside ? load_four<T>(boxes, i) : Four<T>{0, 0, 0, 0};
  for (int64_t group = blockIdx.y; group < rows.sharing; group += gridDim.y) {
    const int64_t row = group * rows.boxes + i;
    Four<T> sum{0, 0, 0, 0};
    for (int64_t begin = 0; begin < rows.codes; begin += rows.lanes) {
      const int64_t at = row * rows.codes + begin + lane;
      if (inside && begin + lane < rows.codes) {
        const Four<T> grad = load_four<T>(grads, at), code = load_four<T>(codes, at);
        const DecodeGradient<T> x =
            decode_axis_gradient<T>({code.x1, code.x2}, {box.x1, box.x2}, weights.x, clip, {grad.x1, grad.x2});
        const DecodeGradient<T> y =
            decode_axis_gradient<T>({code.y1, code.y2}, {box.y1, box.y2}, weights.y, clip, {grad.y1, grad.y2});
        store_four<T>(grad_codes, at, {x.code.centre, y.code.centre, x.code.size, y.code.size});
        terms[thread] = {x.box.low, y.box.low, x.box.high, y.box.high};
      }
      __syncwarp();
      for (int64_t k = 0; lane == 0 && inside && k < rows.lanes && begin + k < rows.codes; ++k) {
        const Four<T> term = terms[thread + k];
        sum = {sum.x1 + term.x1, sum.y1 + term.y1, sum.x2 + term.x2, sum.y2 + term.y2};
      }
      __syncwarp();
    }
    if (lane == 0 && inside) store_four<T>(grad_boxes, row, sum);
  }
}

Tensor decode_boxes_cuda(const Tensor& rel_codes,  // [..., N, 4 * K]
                         const Tensor& boxes,      // [..., N, 4]
                         std::vector<double> weights, double bbox_xform_clip) {
  check_decode_boxes(rel_codes, boxes, weights, bbox_xform_clip);
  const DeviceGuard guard(rel_codes.get_device_index());
  Tensor decoded = new_dense(rel_codes, shape_vector(rel_codes), wide_dtype(rel_codes, boxes));
  if (decoded.numel() == 0) return decoded;
  const ScalarType dtype = input_dtype(rel_codes, boxes);
  const Tensor codes = rows_of_four(rel_codes, dtype), dense = rows_of_four(boxes, dtype);
  const CodeRows rows = code_rows(codes, dense);
  const cudaStream_t stream = current_stream(rel_codes);
  PYDET_DISPATCH_FLOATING(dtype, "decode_boxes", [&] {
    using T = Wide<scalar_t>;
    launch(decode_boxes_kernel<T, scalar_t>, grid_of(rows), dim3(kCodeThreads), 0, stream,
           codes.const_data_ptr<scalar_t>(), dense.const_data_ptr<scalar_t>(), rows, code_weights<T>(weights),
           static_cast<T>(bbox_xform_clip), decoded.mutable_data_ptr<T>());
  });
  return decoded;
}

// The gradient of shared boxes comes for each row of rel_codes, still to be summed.
std::tuple<Tensor, Tensor> decode_boxes_backward_cuda(const Tensor& grad, const Tensor& rel_codes, const Tensor& boxes,
                                                      std::vector<double> weights, double bbox_xform_clip) {
  check_decode_boxes_backward(grad, rel_codes, boxes, weights, bbox_xform_clip);
  const DeviceGuard guard(rel_codes.get_device_index());
  const ScalarType out_dtype = wide_dtype(rel_codes, boxes), dtype = input_dtype(rel_codes, boxes);
  std::vector<int64_t> box_shape = shape_vector(rel_codes);
  box_shape.back() = 4;
  Tensor grad_codes = new_dense(grad, shape_vector(grad), out_dtype);
  Tensor grad_boxes = new_dense(grad, box_shape, out_dtype);
  if (grad.numel() == 0) return {grad_codes, torch::stable::zero_(grad_boxes)};
  const Tensor grads = rows_of_four(grad, out_dtype);
  const Tensor codes = rows_of_four(rel_codes, dtype), dense = rows_of_four(boxes, dtype);
  const CodeRows rows = code_rows(codes, dense);
  const cudaStream_t stream = current_stream(grad);
  PYDET_DISPATCH_FLOATING(dtype, "_decode_boxes_backward", [&] {
    using T = Wide<scalar_t>;
    launch(decode_boxes_backward_kernel<T, scalar_t>, grid_of(rows), dim3(kCodeThreads), 0, stream,
           grads.const_data_ptr<T>(), codes.const_data_ptr<scalar_t>(), dense.const_data_ptr<scalar_t>(), rows,
           code_weights<T>(weights), static_cast<T>(bbox_xform_clip), grad_codes.mutable_data_ptr<T>(),
           grad_boxes.mutable_data_ptr<T>());
  });
  return {grad_codes, grad_boxes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("decode_boxes", TORCH_BOX(&decode_boxes_cuda));
  m.impl("_decode_boxes_backward", TORCH_BOX(&decode_boxes_backward_cuda));
}

}  // namespace pydet
