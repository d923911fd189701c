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

Tensor max_pool_2x2_cuda(const Tensor& x,  // [B, C, H, W], channels last
                         int64_t step, std::vector<int64_t> size) {
  const PoolShape shape = check_max_pool_2x2(x, step, size);
  const DeviceGuard guard(x.get_device_index());
  Tensor out = new_channels_last(x, shape.batch, shape.channels, shape.out_height, shape.out_width);
  const int64_t count = out.numel();
  if (count == 0) return out;
  const int64_t blocks = std::min<int64_t>((count - 1) / kPoolThreads + 1, INT32_MAX);
  PYDET_DISPATCH_POOLED(x.scalar_type(), [&] {
    launch(max_pool_2x2_kernel<scalar_t>, dim3(static_cast<unsigned>(blocks)), dim3(kPoolThreads), 0, current_stream(x),
           static_cast<const scalar_t*>(x.data_ptr()), shape, count, static_cast<scalar_t*>(out.data_ptr()));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("_max_pool_2x2", TORCH_BOX(&max_pool_2x2_cuda)); }

}  // namespace pydet
