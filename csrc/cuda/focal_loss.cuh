// What the CUDA kernels of the two focal losses share: totals of sums, and values 16 bytes at a time.
#pragma once

#include "../focal_loss.h"
#include "block_sum.cuh"

namespace pydet {

constexpr int kFocalThreads = 256;
constexpr int kTotalThreads = 1024;  // of the one block that adds up sums, which waits for memory most of the time

// One block: *total = scale * sum, times *factor where there is one.
template <typename T>
__global__ void __launch_bounds__(kTotalThreads)
    focal_total_kernel(const double* sums, int64_t count, double scale, const double* factor, T* total) {
  const double sum = scale * total_of<kTotalThreads>(sums, count);
  if (threadIdx.x == 0) *total = static_cast<T>(factor != nullptr ? sum * *factor : sum);
}

template <typename T>
void launch_focal_total(const Tensor& sums, double scale, const double* factor, T* total, cudaStream_t stream) {
  launch(focal_total_kernel<T>, dim3(1), dim3(kTotalThreads), 0, stream, sums.const_data_ptr<double>(), sums.numel(),
         scale, factor, total);
}

// kCount values at once, where they lie at a multiple of 16 bytes, or a single one.
template <typename T, int kCount>
struct alignas(kCount == 1 ? sizeof(T) : 16) Values {
  T values[kCount];
};

template <typename T, int kCount, typename In>
__device__ void load_values(const In* data, T (&values)[kCount]) {
  const Values<In, kCount> loaded = *reinterpret_cast<const Values<In, kCount>*>(data);
  for (int k = 0; k < kCount; ++k) values[k] = static_cast<T>(loaded.values[k]);
}

template <typename T, int kCount, typename Out>
__device__ void store_values(const T (&values)[kCount], Out* data) {
  Values<Out, kCount> stored;
  for (int k = 0; k < kCount; ++k) stored.values[k] = static_cast<Out>(values[k]);
  *reinterpret_cast<Values<Out, kCount>*>(data) = stored;
}

}  // namespace pydet
