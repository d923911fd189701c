// Stands in for csrc/cuda/cuda_utils.cuh, so that g++ compiles csrc/cuda/*.cu and their kernels run on the CPU: one
// block at a time, the threads of a block as real threads. The functions are registered as CPU operators of another
// namespace.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "torch_utils.h"

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) _STABLE_TORCH_LIBRARY_IMPL(pydet_cuda_on_cpu, CPU, m, STABLE_UID)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

// For the threads of one block after another: opens when all of those that have not returned from the kernel wait.
class Barrier {
 public:
  explicit Barrier(unsigned threads) : threads_(threads), running_(threads) {}

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (++waiting_ == running_) return open();
    opened_.wait(lock, [this, round = round_] { return round != round_; });
  }

  void leave() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (waiting_ == --running_ && waiting_ > 0) open();
    if (running_ == 0) running_ = threads_;  // the next block
  }

 private:
  void open() {
    waiting_ = 0;
    ++round_;
    opened_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable opened_;
  const unsigned threads_;
  unsigned running_, waiting_ = 0;
  uint64_t round_ = 0;
};

inline thread_local Barrier* block_barrier = nullptr;

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::block_barrier->wait(); }

using cudaStream_t = void*;

namespace pydet {

struct DeviceGuard {
  explicit DeviceGuard(int) {}
  ~DeviceGuard() {}
};

inline cudaStream_t current_stream(const Tensor&) { return nullptr; }

template <typename... Params, typename... Args>
inline void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t, Args... args) {
  // What the CUDA driver refuses, so that a wrong launch fails here too.
  PYDET_CHECK(grid.x >= 1 && grid.x <= 0x7fffffffu && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535,
              "launch: grid of ", grid.x, " x ", grid.y, " x ", grid.z);
  const unsigned threads = block.x * block.y * block.z;
  PYDET_CHECK(threads >= 1 && threads <= 1024, "launch: block of ", threads, " threads");
  PYDET_CHECK(shared == 0, "launch: dynamic shared memory is not supported on the CPU yet");
  const size_t blocks = static_cast<size_t>(grid.x) * grid.y * grid.z;
  cuda_on_cpu::Barrier inside(threads), between(threads);
  const auto run = [&](unsigned thread) {
    threadIdx = dim3(thread % block.x, thread / block.x % block.y, thread / block.x / block.y);
    blockDim = block;
    gridDim = grid;
    cuda_on_cpu::block_barrier = &inside;
    for (size_t b = 0; b < blocks; ++b) {
      blockIdx = dim3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                      static_cast<unsigned>(b / grid.x / grid.y));
      kernel(static_cast<Params>(args)...);
      inside.leave();
      between.wait();  // shared memory belongs to one block at a time
    }
  };
  std::vector<std::thread> workers;
  for (unsigned thread = 0; thread < threads; ++thread) workers.emplace_back(run, thread);
  for (std::thread& worker : workers) worker.join();
}

}  // namespace pydet
