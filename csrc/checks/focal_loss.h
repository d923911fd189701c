// Contracts of the focal losses.
#pragma once

#include <limits>
#include <optional>

#include "common.h"

namespace pydet {

inline void check_gamma(const char* op, double gamma) {
  PYDET_CHECK(gamma >= 0 && gamma < std::numeric_limits<double>::infinity(), op,
              ": gamma must be finite and not negative, got ", gamma);
}

// `shape` is that of the losses before the reduction.
inline Reduction check_focal_reduction(const char* op, const Tensor* grad, const std::vector<int64_t>& shape,
                                       const Tensor& inputs, const std::string& name) {
  const Reduction reduction = check_reduction(op, name);
  if (grad != nullptr) {
    check_gradient(op, *grad, reduction == Reduction::none ? shape : std::vector<int64_t>{}, "inputs", inputs);
  }
  return reduction;
}

// Floating targets hold a label for each logit, integers a class for each row. The classes themselves are checked where
// they are read: on a GPU that would wait for the device. `grad` is the gradient of the loss, or null.
inline Reduction check_sigmoid_focal_loss(const Tensor* grad,
                                          const Tensor& inputs,   // [...] or [..., C]
                                          const Tensor& targets,  // the same, or integers [...]
                                          double alpha, double gamma, const std::string& reduction) {
  const char* op = "sigmoid_focal_loss";
  PYDET_CHECK(is_floating(inputs.scalar_type()), op, ": inputs must be a floating tensor, got ", dtype_of(inputs));
  const bool classes = is_integral(targets.scalar_type());
  PYDET_CHECK(classes || is_floating(targets.scalar_type()), op, ": targets must be a floating or integer tensor, got ",
              dtype_of(targets));
  bool fits = targets.dim() == inputs.dim() - (classes ? 1 : 0);
  for (int64_t d = 0; fits && d < targets.dim(); ++d) fits = targets.size(d) == inputs.size(d);
  PYDET_CHECK(fits, op, ": ",
              classes ? "integer targets must be classes of shape inputs.shape[:-1]"
                      : "floating targets must have the shape of inputs",
              ", with inputs ", shape_of(inputs), ", got ", shape_of(targets));
  PYDET_CHECK((alpha >= 0 && alpha <= 1) || alpha == -1, op, ": alpha must be in [0, 1], or -1 for no weights, got ",
              alpha);
  check_gamma(op, gamma);
  check_same_device(op, "inputs", inputs, "targets", targets);
  return check_focal_reduction(op, grad, shape_vector(inputs), inputs, reduction);
}

inline Reduction check_softmax_focal_loss(const Tensor* grad,
                                          const Tensor& inputs,                 // [N, C]
                                          const Tensor& targets,                // [N]
                                          double gamma, double alpha,
                                          const std::optional<Tensor>& weight,  // [C]
                                          const std::string& reduction) {
  const char* op = "softmax_focal_loss";
  PYDET_CHECK(is_floating(inputs.scalar_type()), op, ": inputs must be a floating tensor, got ", dtype_of(inputs));
  PYDET_CHECK(inputs.dim() == 2 && inputs.size(1) >= 1, op, ": inputs must be [N, C] with C >= 1, got ",
              shape_of(inputs));
  PYDET_CHECK(is_integral(targets.scalar_type()), op, ": targets must be an integer tensor, got ", dtype_of(targets));
  PYDET_CHECK(targets.dim() == 1 && targets.size(0) == inputs.size(0), op,
              ": targets must be [N] with N = ", inputs.size(0), " as in inputs, got ", shape_of(targets));
  check_same_device(op, "inputs", inputs, "targets", targets);
  if (weight) {
    PYDET_CHECK(is_floating(weight->scalar_type()), op, ": weight must be a floating tensor, got ", dtype_of(*weight));
    PYDET_CHECK(weight->dim() == 1 && weight->size(0) == inputs.size(1), op,
                ": weight must be [C] with C = ", inputs.size(1), " as in inputs, got ", shape_of(*weight));
    check_same_device(op, "inputs", inputs, "weight", *weight);
  }
  check_gamma(op, gamma);
  PYDET_CHECK((alpha >= 0 && alpha < std::numeric_limits<double>::infinity()) || alpha == -1, op,
              ": alpha must be finite and not negative, or -1 for no weight, got ", alpha);
  return check_focal_reduction(op, grad, {inputs.size(0)}, inputs, reduction);
}

}  // namespace pydet
