#include "../checks/max_pool_2x2.h"
#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr int kPoolThreads = 256;

// A thread for each number of the output.
template <typename T>
__global__ void __launch_bounds__(kPoolThreads) max_pool_2x2_kernel(const T* x, PoolShape shape, int64_t count,
                                                                    T* out) {  // [B, H, W, C]
  for (int64_t i = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kPoolThreads) {
    const int64_t pixel = i / shape.channels, line = pixel / shape.out_width;
    const int64_t row = line % shape.out_height * shape.step, column = pixel % shape.out_width * shape.step;
    const T* above = x + line / shape.out_height * shape.image_stride + row * shape.row_stride +
                     column * shape.pixel_stride + i % shape.channels;
    const int64_t right = column + 1 < shape.width ? shape.pixel_stride : 0;
    const T* below = row + 1 < shape.height ? above + shape.row_stride : above;
    out[i] = pooled(above[0], above[right], below[0], below[right]);
  }
}

// A thread for each channel of each window, those of the last row and column too that may not have been pooled.
template <typename T, typename Bits>
__global__ void __launch_bounds__(kPoolThreads)
    max_pool_2x2_backward_kernel(const T* grad, const T* x, PoolShape shape, int64_t count, Bits* out) {
  const int64_t columns = (shape.width + 1) / 2, rows = (shape.height + 1) / 2;
  for (int64_t i = int64_t{blockIdx.x} * kPoolThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kPoolThreads) {
    const int64_t window = i / shape.channels, channel = i % shape.channels;
    const int64_t column = window % columns, line = window / columns, row = line % rows, image = line / rows;
    const int64_t first = ((image * shape.height + 2 * row) * shape.width + 2 * column) * shape.channels + channel;
    const int64_t right = 2 * column + 1 < shape.width ? shape.channels : 0;
    const int64_t below = 2 * row + 1 < shape.height ? shape.width * shape.channels : 0;
    T g{};
    if (row < shape.out_height && column < shape.out_width) {
      g = grad[((image * shape.out_height + row) * shape.out_width + column) * shape.channels + channel];
    }
    const auto of = pool_gradient<T>({x[first], x[first + right], x[first + below], x[first + below + right]}, g);
    out[first] = of.a;
    if (right > 0) out[first + right] = of.b;
    if (below > 0) out[first + below] = of.c;
    if (right > 0 && below > 0) out[first + below + right] = of.d;
  }
}

dim3 pool_blocks(int64_t count) {
  return dim3(static_cast<unsigned>(std::min<int64_t>((count - 1) / kPoolThreads + 1, INT32_MAX)));
}

Tensor max_pool_2x2_cuda(const Tensor& x,  // [B, C, H, W], channels last
                         int64_t step, std::vector<int64_t> size) {
  const PoolShape shape = check_max_pool_2x2(x, step, size);
  const DeviceGuard guard(x.get_device_index());
  Tensor out = new_channels_last(x, shape.batch, shape.channels, shape.out_height, shape.out_width);
  const int64_t count = out.numel();
  if (count == 0) return out;
  PYDET_DISPATCH_POOLED(x.scalar_type(), [&] {
    launch(max_pool_2x2_kernel<scalar_t>, pool_blocks(count), dim3(kPoolThreads), 0, current_stream(x),
           static_cast<const scalar_t*>(x.data_ptr()), shape, count, static_cast<scalar_t*>(out.data_ptr()));
  });
  return out;
}

Tensor max_pool_2x2_backward_cuda(const Tensor& grad,  // [B, C, h, w] and
                                  const Tensor& x) {   // [B, C, H, W], both channels last
  const PoolShape shape = check_max_pool_2x2_backward(grad, x);
  const DeviceGuard guard(x.get_device_index());
  Tensor out = new_channels_last(x, shape.batch, shape.channels, shape.height, shape.width);
  if (out.numel() == 0) return out;
  const int64_t count = shape.batch * ((shape.height + 1) / 2) * ((shape.width + 1) / 2) * shape.channels;
  PYDET_DISPATCH_POOLED(x.scalar_type(), [&] {
    using Bits = decltype(signed_bits(scalar_t{}));
    launch(max_pool_2x2_backward_kernel<scalar_t, Bits>, pool_blocks(count), dim3(kPoolThreads), 0, current_stream(x),
           static_cast<const scalar_t*>(grad.data_ptr()), static_cast<const scalar_t*>(x.data_ptr()), shape, count,
           static_cast<Bits*>(out.data_ptr()));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("_max_pool_2x2", TORCH_BOX(&max_pool_2x2_cuda));
  m.impl("_max_pool_2x2_backward", TORCH_BOX(&max_pool_2x2_backward_cuda));
}

}  // namespace pydet
