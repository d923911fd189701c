// What the two focal losses share.
#pragma once

#include <tuple>
#include <utility>
#include <vector>

#include "checks/focal_loss.h"
#include "math/focal_loss.h"
#include "widen.h"

namespace pydet {

// On the CPU: the classes of the rows as int64, the largest of them checked; `rows` counts those that are not ignored
// (negative).
struct FocalClasses {
  Tensor tensor;
  const int64_t* data;
  int64_t rows;
};

inline FocalClasses load_classes(const char* op, const Tensor& targets, int64_t largest, const char* rule) {
  FocalClasses classes{as_contiguous(targets, ScalarType::Long), nullptr, 0};
  classes.data = classes.tensor.const_data_ptr<int64_t>();
  int64_t beyond = 0;
  const int64_t n = classes.tensor.numel();
  for (int64_t i = 0; i < n; ++i) {
    classes.rows += classes.data[i] >= 0;
    beyond += classes.data[i] > largest;
  }
  for (int64_t i = 0; beyond > 0 && i < n; ++i) {
    PYDET_CHECK(classes.data[i] <= largest, op, ": targets must be ", rule, ", got ", classes.data[i], " at row ", i);
  }
  return classes;
}

template <typename T>
struct FocalParameters {
  T alpha, not_alpha, gamma;  // alpha and not_alpha are 1 where there are no weights
  FocalPower power;
};

template <typename T>
FocalParameters<T> focal_parameters(double alpha, double gamma) {
  return {static_cast<T>(alpha < 0 ? 1 : alpha), static_cast<T>(alpha < 0 ? 1 : 1 - alpha), static_cast<T>(gamma),
          focal_power(gamma)};
}

// Upstream gradients: one for every loss, or one for all.
template <typename T>
struct Upstream {
  const T* data;
  bool single;
};

// What is computed in one pass: losses (each, or their sum), and gradients where somebody wants them.
enum class FocalWanted : int { loss, loss_and_gradient, gradient };

// Of which what is not wanted is left out.
struct FocalOutputs {
  Tensor loss, gradient;
};

// Uninitialised.
inline FocalOutputs new_focal_outputs(FocalWanted wanted, const std::vector<int64_t>& loss_shape,
                                      const Tensor& inputs) {
  FocalOutputs outputs;
  if (wanted != FocalWanted::gradient) outputs.loss = new_dense(inputs, loss_shape, wide_dtype(inputs));
  if (wanted != FocalWanted::loss) outputs.gradient = new_dense(inputs, shape_vector(inputs), inputs.scalar_type());
  return outputs;
}

// The three operators of a focal loss on one device, from the function behind them: of what is wanted, the upstream
// gradient or null, and the operators' arguments.
template <auto function>
struct FocalOperators;

template <typename... Args, FocalOutputs (*function)(FocalWanted, const Tensor*, Args...)>
struct FocalOperators<function> {
  static Tensor loss(Args... args) { return function(FocalWanted::loss, nullptr, std::forward<Args>(args)...).loss; }
  static std::tuple<Tensor, Tensor> with_gradient(Args... args) {
    const FocalOutputs outputs = function(FocalWanted::loss_and_gradient, nullptr, std::forward<Args>(args)...);
    return {outputs.loss, outputs.gradient};
  }
  static Tensor backward(const Tensor& grad, Args... args) {
    return function(FocalWanted::gradient, &grad, std::forward<Args>(args)...).gradient;
  }
};

}  // namespace pydet
