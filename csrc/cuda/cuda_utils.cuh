// What every CUDA entry needs: the tensor's device, torch's current stream, a launch that is checked.
// tests/cuda_on_cpu/cuda_utils.cuh is the same for the CPU, included first there and with this guard, so that this file
// is empty then. What is added here is added there.
#ifndef PYDET_CUDA_UTILS
#define PYDET_CUDA_UTILS

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>
#include <atomic>

#include "../torch_utils.h"

namespace pydet {

#define PYDET_CUDA_CHECK(call)                                                              \
  do {                                                                                      \
    const cudaError_t error_ = (call);                                                      \
    PYDET_CHECK(error_ == cudaSuccess, "CUDA: ", cudaGetErrorString(error_), " in " #call); \
  } while (0)

inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Of the current device, that of the DeviceGuard: what the grid of a kernel that loops is sized with.
inline int multiprocessors() {
  static std::array<std::atomic<int>, 64> known{};
  int device = 0, count = 0;
  PYDET_CUDA_CHECK(cudaGetDevice(&device));
  if (device < static_cast<int>(known.size())) count = known[device];
  if (count == 0) {
    PYDET_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    if (device < static_cast<int>(known.size())) known[device] = count;
  }
  return count;
}

// In a kernel: its dynamic shared memory, of as many bytes as launch() was told, aligned to 16, as a T* called `name`.
#define PYDET_DYNAMIC_SHARED(T, name)             \
  extern __shared__ uint4 pydet_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(pydet_dynamic_shared)

// launch(kernel, grid, block, shared bytes, stream, arguments...): the one way kernels are started. Every GPU has 64
// KiB of shared memory for a block; more than 48 must be asked for, with what is static in the kernel.
template <typename... Params, typename... Args>
inline void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, Args... args) {
  constexpr size_t kMostStatic = size_t{16} << 10;  // where there is dynamic memory, too
  if (shared + kMostStatic > size_t{48} << 10) {
    PYDET_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  }
  kernel<<<grid, block, shared, stream>>>(static_cast<Params>(args)...);
  const cudaError_t error = cudaGetLastError();
  PYDET_CHECK(error == cudaSuccess, "CUDA launch failed: ", cudaGetErrorString(error));
}

// A word that other threads may write or read at the same moment: read and written whole, in L2 instead of an L1 cache
// that would go on showing the old value. They order nothing else: that takes __threadfence and an atomic operation.
template <typename T>
__device__ inline T load_relaxed(const T* address) {
  return *static_cast<const volatile T*>(address);
}
template <typename T>
__device__ inline void store_relaxed(T* address, T value) {
  *static_cast<volatile T*>(address) = value;
}

using torch::stable::accelerator::DeviceGuard;

}  // namespace pydet

#endif  // PYDET_CUDA_UTILS
