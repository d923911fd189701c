#include <array>

#include "../checks/resample.h"
#include "../math/resample.h"
#include "../widen.h"
#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr int kResampleThreads = 256;

// Of a tensor [C, H, W].
struct PictureStrides {
  int64_t channel, row, column;
};

PictureStrides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2)}; }

__device__ float in_unit(uint8_t pixel) { return static_cast<float>(pixel) / 255; }
__device__ float in_unit(float pixel) { return pixel; }
__device__ double in_unit(double pixel) { return pixel; }

template <typename T>
__device__ T mix(bool fuse, T first, T second, T first_part, T second_part) {
  return fuse ? mixed<true>(first, second, first_part, second_part)
              : mixed<false>(first, second, first_part, second_part);
}

// A thread for each pixel of one colour.
template <typename In, typename T, typename Out>
__global__ void __launch_bounds__(kResampleThreads)
    resample_kernel(const In* image, PictureStrides from, const int64_t* rows, const float* row_parts,
                    const int64_t* columns, const float* column_parts, T mean, T std, bool fuse, int height, int width,
                    Out* out, PictureStrides to) {
  const int64_t i = int64_t{blockIdx.x} * kResampleThreads + threadIdx.x;
  if (i >= int64_t{height} * width) return;
  const int y = static_cast<int>(i / width), x = static_cast<int>(i % width);
  const In* above = image + rows[y] * from.row;
  const In* below = image + rows[height + y] * from.row;
  const int64_t left = columns[x] * from.column, right = columns[width + x] * from.column;
  const T a = (in_unit(above[left]) - mean) / std, b = (in_unit(above[right]) - mean) / std;
  const T c = (in_unit(below[left]) - mean) / std, d = (in_unit(below[right]) - mean) / std;
  const T upper = row_parts[y], lower = row_parts[height + y];
  const T first = column_parts[x], second = column_parts[width + x];
  const T pixel = mix(fuse, mix(fuse, a, b, first, second), mix(fuse, c, d, first, second), upper, lower);
  out[y * to.row + x * to.column] = narrowed<Out>(pixel);
}

template <typename In, typename T, typename Out>
void resample_colours(const Tensor& image, const std::array<Tensor, 4>& taps, const std::vector<double>& mean,
                      const std::vector<double>& std, bool fuse, Tensor& out) {
  const int64_t height = out.size(1), width = out.size(2);
  const dim3 blocks(static_cast<unsigned>((height * width - 1) / kResampleThreads + 1));
  const PictureStrides from = strides_of(image), to = strides_of(out);
  for (int64_t c = 0; c < out.size(0); ++c) {
    // 0 and 1 change nothing
    const T less = static_cast<T>(mean.empty() ? 0 : mean[c]), by = static_cast<T>(std.empty() ? 1 : std[c]);
    launch(resample_kernel<In, T, Out>, blocks, dim3(kResampleThreads), 0, current_stream(image),
           image.const_data_ptr<In>() + c * from.channel, from, taps[0].const_data_ptr<int64_t>(),
           taps[1].const_data_ptr<float>(), taps[2].const_data_ptr<int64_t>(), taps[3].const_data_ptr<float>(), less,
           by, fuse, static_cast<int>(height), static_cast<int>(width), out.mutable_data_ptr<Out>() + c * to.channel,
           to);
  }
}

void resample_cuda(const Tensor& image,  // [C, H, W], any strides
                   const Tensor& rows,   // [2, height]
                   const Tensor& row_parts,
                   const Tensor& columns,  // [2, width]
                   const Tensor& column_parts, std::vector<double> mean, std::vector<double> std, bool fuse,
                   Tensor out) {  // [C, height, width]
  check_resample(image, rows, row_parts, columns, column_parts, mean, std, out);
  PYDET_CHECK(out.size(1) <= INT32_MAX && out.size(2) <= INT32_MAX && out.size(1) * out.size(2) < int64_t{1} << 38,
              "_resample: out is too large for a GPU: ", shape_of(out));
  const DeviceGuard guard(image.get_device_index());
  if (out.numel() == 0) return;
  const std::array<Tensor, 4> taps{as_contiguous(rows, ScalarType::Long), as_contiguous(row_parts, ScalarType::Float),
                                   as_contiguous(columns, ScalarType::Long),
                                   as_contiguous(column_parts, ScalarType::Float)};
  PYDET_DISPATCH_RESAMPLED(image.scalar_type(), out.scalar_type(),
                           [&] { resample_colours<in_t, work_t, scalar_t>(image, taps, mean, std, fuse, out); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("_resample", TORCH_BOX(&resample_cuda)); }

}  // namespace pydet
