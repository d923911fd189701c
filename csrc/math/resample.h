// A pixel of a picture that is made larger or smaller: of the four around its place, bilinear.
#pragma once

#include "scalar.h"

namespace pydet {

// Along both rows, then between them. Darknet's is not fused, torch's is where there are fused multiply-adds.
template <bool kFused, typename T>
PYDET_HD T mixed(T upper_left, T upper_right, T lower_left, T lower_right, T upper, T lower, T left, T right) {
  const T above = fused<kFused>(upper_left, left, upper_right * right);
  const T below = fused<kFused>(lower_left, left, lower_right * right);
  return fused<kFused>(above, upper, below * lower);
}

}  // namespace pydet
