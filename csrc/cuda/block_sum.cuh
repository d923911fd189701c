// Sums that are the same bits each time: every order is that of the threads.
#pragma once

#include "cuda_utils.cuh"

namespace pydet {
namespace {

// The sum of the values of all threads of a block of `threads`, a multiple of 32. All of them must call it, with shared
// memory of theirs that nothing else uses.
template <int threads>
__device__ double block_sum(double value, double (&of_warps)[threads / 32]) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_down_sync(0xffffffffu, value, distance);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int warp = 0; warp < threads / 32; ++warp) sum += of_warps[warp];
  return sum;
}

// The sum of `count` numbers, by one block.
template <int threads>
__device__ double total_of(const double* numbers, int64_t count) {
  __shared__ double of_warps[threads / 32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += threads) sum += numbers[i];
  return block_sum<threads>(sum, of_warps);
}

// The sum of what the threads before this one have, and of what all have. All threads of the block must call it.
template <typename T>
__device__ T sum_before(T value, T& total) {
  __shared__ T of_warps[32];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T sum = value;
  for (unsigned distance = 1; distance < 32; distance *= 2) {
    const T left = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += left;
  }
  if (lane == 31) of_warps[warp] = sum;
  __syncthreads();
  sum -= value;
  total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) {
    if (w < warp) sum += of_warps[w];
    total += of_warps[w];
  }
  __syncthreads();
  return sum;
}

}  // namespace
}  // namespace pydet
