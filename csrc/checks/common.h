// What the contracts of several operators share. A contract is checked before anything is read; the CPU and the CUDA
// entry both call it.
#pragma once

#include "../torch_utils.h"

namespace pydet {

inline void check_same_device(const char* op, const char* name1, const Tensor& t1, const char* name2,
                              const Tensor& t2) {
  PYDET_CHECK(t1.is_cuda() == t2.is_cuda() && t1.get_device_index() == t2.get_device_index(), op, ": ", name1, " and ",
              name2, " must be on one device, got ", t1.is_cuda() ? "cuda:" : "cpu:", t1.get_device_index(), " and ",
              t2.is_cuda() ? "cuda:" : "cpu:", t2.get_device_index());
}

// The gradient that a backward operator is given: of a result of this shape, computed from `input`.
inline void check_gradient(const char* op, const Tensor& grad, const std::vector<int64_t>& shape, const char* name,
                           const Tensor& input) {
  PYDET_CHECK(is_floating(grad.scalar_type()) && shape_vector(grad) == shape, op,
              ": the gradient must be floating and of the shape ", list_of(shape), " of the result, got ",
              dtype_of(grad), " ", shape_of(grad));
  check_same_device(op, "the gradient", grad, name, input);
}

inline void check_channels_last(const char* op, const char* name, const Tensor& t) {  // [B, C, H, W]
  const std::vector<int64_t> dense = channels_last(t.size(1), t.size(2), t.size(3));
  for (int64_t d = 0; d < 4; ++d) {
    PYDET_CHECK(t.numel() == 0 || t.size(d) == 1 || t.stride(d) == dense[static_cast<size_t>(d)], op, ": ", name,
                " must be channels last and dense, got strides ", list_of(t.strides()), " of ", shape_of(t));
  }
}

enum class Reduction : int { none, mean, sum };

inline Reduction check_reduction(const char* op, const std::string& reduction) {
  if (reduction == "none") return Reduction::none;
  if (reduction == "mean") return Reduction::mean;
  PYDET_CHECK(reduction == "sum", op, ": reduction must be 'none', 'mean' or 'sum', got '", reduction, "'");
  return Reduction::sum;
}

}  // namespace pydet
