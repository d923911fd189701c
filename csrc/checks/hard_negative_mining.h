// Contract of hard_negative_mining.
#pragma once

#include <cmath>

#include "common.h"

namespace pydet {

inline void check_hard_negative_mining(const Tensor& loss,      // [..., A]
                                       const Tensor& positive,  // [..., A]
                                       double ratio) {
  const char* op = "hard_negative_mining";
  PYDET_CHECK(is_floating(loss.scalar_type()), op, ": loss must be a floating tensor, got ", dtype_of(loss));
  PYDET_CHECK(loss.dim() >= 1, op, ": loss must be [..., A], got ", shape_of(loss));
  PYDET_CHECK(loss.size(-1) <= INT32_MAX, op, ": loss must be of at most 2147483647 anchors, got ", shape_of(loss));
  PYDET_CHECK(positive.scalar_type() == ScalarType::Bool, op, ": positive must be a bool tensor, got ",
              dtype_of(positive));
  PYDET_CHECK(shape_of(positive) == shape_of(loss), op, ": positive must have the shape ", shape_of(loss),
              " of loss, got ", shape_of(positive));
  PYDET_CHECK(ratio >= 0 && std::isfinite(ratio), op, ": ratio must be finite and not negative, got ", ratio);
  check_same_device(op, "loss", loss, "positive", positive);
}

}  // namespace pydet
