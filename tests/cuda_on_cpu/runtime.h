// Runs a CUDA kernel on the CPU, one block at a time, every thread of the block as a fiber of one thread of the
// operating system: deterministic, and a switch costs nanoseconds. cuda_utils.cuh is what kernels see of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

constexpr unsigned kWarp = 32;

// Throws std::runtime_error where the CUDA driver would refuse the launch, or where the threads of a block do not come
// together: at a barrier that not all of them reach, or at a warp's operation that some lane of its mask never does, or
// where two of them race (race_check.h). `static_shared` is any variable of those of the kernel's library, or null.
void run(dim3 grid, dim3 block, size_t shared, const void* static_shared, const std::function<void()>& thread);

void* dynamic_shared();

// Waits for all threads of the block and returns for how many of them `predicate` holds. `line` is that of the call:
// threads that wait in different lines do not meet.
unsigned barrier(bool predicate, int line);

enum class WarpOperation { kSync, kShuffle, kBallot, kMatch };

// Waits for the lanes of `mask`. Shuffle: the value of lane `source`, something else if that is not in the mask.
// Ballot: the lanes whose value is not 0. Match: the lanes with the same value.
uint64_t warp(WarpOperation operation, unsigned mask, uint64_t value, unsigned source, int line);

unsigned lane();

void fence();

}  // namespace cuda_on_cpu
