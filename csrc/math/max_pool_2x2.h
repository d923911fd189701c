// The largest of four numbers, NaN as soon as there is one, as torch's max pooling gives it.
#pragma once

#include <cstdint>

#include "scalar.h"

namespace pydet {

// Of equal ones (0 and -0) the first.
template <typename T>
PYDET_HD T pooled(T a, T b) {
  return b > a || b != b ? b : a;
}
template <typename T>
PYDET_HD T pooled(T a, T b, T c, T d) {
  return pooled(pooled(pooled(a, b), c), d);
}

// A half precision number by its bits, whose exponent for infinity says which of the two formats it is: a vector holds
// twice as many of them as of the floats that they mean.
template <int kInfinity>
struct SixteenBits {
  int16_t bits;
};

// An integer in the order of the numbers, 0 above -0 and NaN of either sign above all: the bits of a negative number
// are turned over, and -inf is moved down to the least integer, so that what is below it comes out on top.
template <int kInfinity>
PYDET_HD int16_t pool_rank(SixteenBits<kInfinity> x) {
  const int16_t ordered = static_cast<int16_t>(x.bits ^ ((x.bits >> 15) & 0x7fff));
  return static_cast<int16_t>(ordered - (0x7fff - kInfinity));
}

template <int kInfinity>
PYDET_HD SixteenBits<kInfinity> pooled(SixteenBits<kInfinity> a, SixteenBits<kInfinity> b, SixteenBits<kInfinity> c,
                                       SixteenBits<kInfinity> d) {
  const int16_t above = maximum(pool_rank(a), pool_rank(b)), below = maximum(pool_rank(c), pool_rank(d));
  const int16_t ordered = static_cast<int16_t>(maximum(above, below) + (0x7fff - kInfinity));
  return {static_cast<int16_t>(ordered ^ ((ordered >> 15) & 0x7fff))};
}

}  // namespace pydet
