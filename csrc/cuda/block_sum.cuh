// Sums that are the same bits each time: every order is that of the threads.
#pragma once

#include "cuda_utils.cuh"

namespace pydet {

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

}  // namespace pydet
