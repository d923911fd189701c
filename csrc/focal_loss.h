// What the two focal losses share.
#pragma once

#include <optional>
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

// The dtype of losses: that of the arithmetic, since sums overflow in half precision.
inline ScalarType focal_dtype(const Tensor& inputs) {
  return inputs.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline std::vector<int64_t> shape_vector(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

inline void check_upstream(const char* op, const Tensor& grad, const std::vector<int64_t>& shape) {
  PYDET_CHECK(is_floating(grad.scalar_type()) && shape_vector(grad) == shape, op,
              ": the gradient must be floating and of the shape of the loss, got ", dtype_of(grad), " ",
              shape_of(grad));
}

}  // namespace pydet
