// Half precision is computed in float32, everything else in its own type.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "math/scalar.h"

namespace pydet {

PYDET_HD float widen(float x) { return x; }
PYDET_HD double widen(double x) { return x; }
PYDET_HD float widen(torch::headeronly::Half x) { return float_of_half(x.x); }
PYDET_HD float widen(torch::headeronly::BFloat16 x) { return float_of_bfloat16(x.x); }

template <typename In>
using Wide = decltype(widen(In()));

template <typename Out, typename T>
PYDET_HD Out narrowed(T x) {
  if constexpr (sizeof(Out) == 2) return static_cast<Out>(static_cast<float>(x));
  return static_cast<Out>(x);
}

}  // namespace pydet
