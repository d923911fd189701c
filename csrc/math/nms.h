// Non-maximum suppression: the order of scores, which box suppresses which, and an order that keeps neighbours
// together.
#pragma once

#include <limits>

#include "box.h"

namespace pydet {

// Unsigned key that ascends as the score descends: NaN first, -0 equal to 0.
PYDET_HD uint32_t descending_key(float score) {
  return static_cast<uint32_t>(INT32_MAX) - static_cast<uint32_t>(rank_of(score));
}
PYDET_HD uint64_t descending_key(double score) {
  return static_cast<uint64_t>(INT64_MAX) - static_cast<uint64_t>(rank_of(score));
}

// Areas the fast path takes: far enough from the ends of T that a product with the threshold neither underflows nor
// overflows. Level -50 is an area of 4^-50, about 1e-30.
template <typename T>
PYDET_HD constexpr int nms_lowest_level() {
  return sizeof(T) == 4 ? -50 : -480;
}

// floor(log4(a)) of a normal, positive number.
PYDET_HD int area_level(float a) { return (static_cast<int>(bits_of(a) >> 23) - 127) >> 1; }
PYDET_HD int area_level(double a) { return (static_cast<int>(bits_of(a) >> 52) - 1023) >> 1; }

// A box without positive width and height has an IoU of 0 or NaN with everything, and so has one of infinite area.
template <typename T>
PYDET_HD bool can_overlap(const Box<T>& box, T box_area) {
  return box.x2 > box.x1 && box.y2 > box.y1 && box_area > T(0) && box_area <= std::numeric_limits<T>::max();
}

// Below the threshold by more than a product with it can round: what a product says is too little is too little.
template <typename T>
PYDET_HD T nms_low(double threshold) {
  return static_cast<T>(threshold * (1.0 - 16.0 * std::numeric_limits<T>::epsilon()));
}

// A threshold, and what it says without a division.
template <typename T>
struct NmsRule {
  double threshold;
  T low;            // overlap >= low * union wherever the IoU is above the threshold
  bool everything;  // a negative threshold: every IoU that is a number is above it, be the boxes apart or degenerate
};

template <typename T>
PYDET_HD NmsRule<T> nms_rule(double threshold) {
  // A subnormal product has lost the digits that `low` relies on.
  const double least = std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon();
  return {threshold, threshold < least ? T(0) : nms_low<T>(threshold), threshold < 0};
}

// The IoU is compared in double. Both boxes are rounded alike whichever comes first.
template <typename T>
PYDET_HD bool suppresses(const Box<T>& kept, T kept_area, const Box<T>& box, T box_area, const NmsRule<T>& rule) {
  const T overlap = intersection(kept, box), joint = kept_area + box_area - overlap;
  if (!rule.everything && !(overlap >= rule.low * joint)) return false;
  return static_cast<double>(overlap / joint) > rule.threshold;
}

// The lower 21 bits, with a zero before each.
PYDET_HD uint64_t spread_bits(uint32_t value) {
  uint64_t x = value & 0x1fffffu;
  x = (x | x << 16) & 0x0000ffff0000ffffu;
  x = (x | x << 8) & 0x00ff00ff00ff00ffu;
  x = (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
  x = (x | x << 2) & 0x3333333333333333u;
  return (x | x << 1) & 0x5555555555555555u;
}

// Boxes sorted by it lie beside those they overlap: by segment (15 bits of a hash), by size (powers of 4 of the area),
// along a Z curve of the centres. Nothing but speed depends on it. Coordinates go in as the leading bits of floats, so
// that no bounds have to be found first and one outlier does not press all others into one cell.
template <typename T>
PYDET_HD uint64_t neighbour_key(const Box<T>& box, T box_area, uint32_t segment_hash) {
  const float x = static_cast<float>(T(0.5) * (box.x1 + box.x2)), y = static_cast<float>(T(0.5) * (box.y1 + box.y2));
  const uint32_t column = static_cast<uint32_t>(rank_of(x)) ^ 0x80000000u;
  const uint32_t row = static_cast<uint32_t>(rank_of(y)) ^ 0x80000000u;
  const int level = area_level(static_cast<float>(box_area)) + 64;
  return static_cast<uint64_t>(segment_hash) << 49 | static_cast<uint64_t>(level & 127) << 42 |
         (spread_bits(column >> 11) | spread_bits(row >> 11) << 1);
}

PYDET_HD uint32_t segment_hash(int64_t segment) {
  return static_cast<uint32_t>(static_cast<uint64_t>(segment) * 0x9e3779b97f4a7c15u >> 49);
}

// Bounds of many boxes, in float whatever their type is: rounded outwards.
PYDET_HD float rounded_down(float x) { return x; }
PYDET_HD float rounded_up(float x) { return x; }
PYDET_HD float rounded_down(double x) {
  const float f = static_cast<float>(x);
  return static_cast<double>(f) > x ? std::nextafter(f, -std::numeric_limits<float>::infinity()) : f;
}
PYDET_HD float rounded_up(double x) {
  const float f = static_cast<float>(x);
  return static_cast<double>(f) < x ? std::nextafter(f, std::numeric_limits<float>::infinity()) : f;
}

}  // namespace pydet
