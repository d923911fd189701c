// A pixel of a picture that is made larger or smaller: of the four around its place, bilinear.
#pragma once

#include "scalar.h"

namespace pydet {

// Darknet's order: along both rows, then between them. Nothing is fused.
template <typename T>
PYDET_HD T mixed_by_lines(T upper_left, T upper_right, T lower_left, T lower_right, T upper, T lower, T left, T right) {
  return (upper_left * left + upper_right * right) * upper + (lower_left * left + lower_right * right) * lower;
}

// torch's: the same with fused multiply-adds, where there are some.
template <bool kFused, typename T>
PYDET_HD T mixed_and_fused(T upper_left, T upper_right, T lower_left, T lower_right, T upper, T lower, T left,
                           T right) {
  const T above = fused<kFused>(upper_left, left, upper_right * right);
  const T below = fused<kFused>(lower_left, left, lower_right * right);
  return fused<kFused>(above, upper, below * lower);
}

}  // namespace pydet
