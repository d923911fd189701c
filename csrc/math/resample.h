// A pixel of a picture that is made larger or smaller: of the four around its place, bilinear.
#pragma once

#include "scalar.h"

namespace pydet {

// Of two neighbours, first in a line, then of two lines. Darknet's is not fused, torch's is where there are fused
// multiply-adds.
template <bool kFused, typename T>
PYDET_HD T mixed(T first, T second, T first_part, T second_part) {
  return fused<kFused>(first, first_part, second * second_part);
}

}  // namespace pydet
