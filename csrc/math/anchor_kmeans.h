// Boxes that differ in their shape only, and the random numbers that choose among them.
#pragma once

#include <cmath>
#include <cstdint>

#include "scalar.h"

namespace pydet {

// IoU of two boxes with one centre (YOLOv2 section 2, "Dimension clusters"). 1 to the last bit where they are equal.
template <typename T>
PYDET_HD T shape_iou(T width1, T height1, T area1, T width2, T height2, T area2) {
  const T overlap = minimum(width1, width2) * minimum(height1, height2);
  return overlap / (area1 + area2 - overlap);
}

// Sums are taken in whole numbers of 1 / unit: they don't depend on their order.
PYDET_HD int64_t in_units(double x, double unit) { return static_cast<int64_t>(x * unit); }

// Of n numbers up to 1, so that their sum has less than 63 bits.
inline double unit_of_sum(int64_t n) {
  int exponent = 62;
  while (n > 0) --exponent, n >>= 1;
  return std::ldexp(1.0, exponent);
}

// Sizes that differ by more would leave the sums without digits.
PYDET_HD bool comparable(double smallest, double largest) { return smallest >= largest * 0x1p-30; }

// SplitMix64 (Steele, Lea and Flood 2014): the same numbers everywhere from one seed.
constexpr uint64_t kRandomStep = 0x9e3779b97f4a7c15u;
PYDET_HD uint64_t next_random(uint64_t& state) {
  state += kRandomStep;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// In [0, bound).
PYDET_HD int64_t random_below(uint64_t& state, int64_t bound) {
  const unsigned __int128 product = static_cast<unsigned __int128>(next_random(state)) * static_cast<uint64_t>(bound);
  return static_cast<int64_t>(product >> 64);
}

// k-means++ draws a few boxes for each centre after the first and takes the best, as Arthur and Vassilvitskii advise.
inline int draws_of_centre(int64_t k) {
  int draws = 2;
  while (k > 0) ++draws, k >>= 1;
  return draws;
}

}  // namespace pydet
