#pragma once

#include "common.h"

namespace pydet {

// Rows of the numbers of all channels: x as it lies, channels last.
struct NormShape {
  int64_t rows, channels;
};

inline NormShape check_batch_norm_leaky_relu(const char* op, const Tensor& x, const std::vector<const Tensor*>& vectors,
                                             const Tensor* grad = nullptr) {
  PYDET_CHECK(x.dim() == 4 && is_floating(x.scalar_type()), op, ": x must be [B, C, H, W] and floating point, got ",
              dtype_of(x), " ", shape_of(x));
  const int64_t channels = x.size(1), rows = x.size(0) * x.size(2) * x.size(3);
  check_channels_last(op, "x", x);
  for (const Tensor* t : vectors) {
    PYDET_CHECK(shape_vector(*t) == std::vector<int64_t>{channels} && t->scalar_type() == wide_dtype(x), op,
                ": weight, bias, mean and variance must be ", torch::headeronly::toString(wide_dtype(x)), " [",
                channels, "], got ", dtype_of(*t), " ", shape_of(*t));
    check_same_device(op, "x", x, "weight, bias, mean and variance", *t);
  }
  if (grad != nullptr) {
    check_gradient(op, *grad, shape_vector(x), "x", x);
    PYDET_CHECK(grad->scalar_type() == x.scalar_type(), op, ": the gradient must be of x's dtype ", dtype_of(x),
                ", got ", dtype_of(*grad));
    check_channels_last(op, "the gradient", *grad);
  }
  PYDET_CHECK(rows > 0, op, ": x has no numbers to normalise: ", shape_of(x));
  return {rows, channels};
}

}  // namespace pydet
