// What every CUDA entry needs: the tensor's device, torch's current stream, a launch that is checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../torch_utils.h"

namespace pydet {

inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream);
  return static_cast<cudaStream_t>(stream);
}

// launch(kernel, grid, block, shared bytes, stream, arguments...): the one way kernels are started.
template <typename... Params, typename... Args>
inline void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, Args... args) {
  kernel<<<grid, block, shared, stream>>>(static_cast<Params>(args)...);
  const cudaError_t error = cudaGetLastError();
  PYDET_CHECK(error == cudaSuccess, "CUDA launch failed: ", cudaGetErrorString(error));
}

using torch::stable::accelerator::DeviceGuard;

}  // namespace pydet
