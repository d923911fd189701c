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

// A number's bits, and itself as an integer among others: -0 equal to 0, NaN above all.
PYDET_HD int32_t signed_bits(float x) { return static_cast<int32_t>(bits_of(x)); }
PYDET_HD int64_t signed_bits(double x) { return bits_of(x); }
template <int kInfinity>
PYDET_HD int16_t signed_bits(SixteenBits<kInfinity> x) {
  return x.bits;
}
template <int kInfinity>
PYDET_HD int16_t rank_of(SixteenBits<kInfinity> x) {
  const int16_t rank = pool_rank(x), below_zero = static_cast<int16_t>(kInfinity - 0x7fff - 1);  // -0's
  return static_cast<int16_t>(rank + (rank == below_zero));
}

// Of the four numbers of a window.
template <typename T>
struct PoolWindow {
  T a, b, c, d;
};

// The bits of the gradient where it goes to, the largest number or of equal ones the first, elsewhere those of 0.
// Masks, since compilers make paths through a loop of choices that depend on each other.
template <typename T>
PYDET_HD auto pool_gradient(PoolWindow<T> x, T gradient) {
  using Bits = decltype(signed_bits(gradient));
  const Bits a = rank_of(x.a), b = rank_of(x.b), c = rank_of(x.c), d = rank_of(x.d), bits = signed_bits(gradient);
  const Bits above = maximum(a, b), below = maximum(c, d);
  const Bits b_wins = static_cast<Bits>(-(b > a)), d_wins = static_cast<Bits>(-(d > c));
  const Bits below_wins = static_cast<Bits>(-(below > above));
  const Bits of_above = static_cast<Bits>(bits & ~below_wins), of_below = static_cast<Bits>(bits & below_wins);
  return PoolWindow<Bits>{static_cast<Bits>(of_above & ~b_wins), static_cast<Bits>(of_above & b_wins),
                          static_cast<Bits>(of_below & ~d_wins), static_cast<Bits>(of_below & d_wins)};
}

}  // namespace pydet
