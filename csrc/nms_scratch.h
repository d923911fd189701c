// What the NMS kernels of every instruction set share: memory that is reused between classes, and which boxes count.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "math/box.h"

namespace pydet {

// Boxes that are compared at a time: five runs of values in lines of the cache that belong to no other block.
template <typename T>
struct alignas(64) NmsBlock {
  static constexpr int64_t kBoxes = 64 / sizeof(T);

  T x1[kBoxes], y1[kBoxes], x2[kBoxes], y2[kBoxes], area[kBoxes];
};

struct NmsCell {
  uint32_t first_block;
  uint32_t count;  // how many boxes are kept so far
};

template <typename T>
struct NmsScratch {
  std::vector<Box<T>> ranked;  // best first
  std::vector<NmsBlock<T>> kept;
  std::vector<NmsCell> cells;
  std::vector<uint32_t> cell_of_box;
};

// Areas the fast path takes: far enough from the ends of T that a product with the threshold neither underflows nor
// overflows. Level -50 is an area of 4^-50, about 1e-30.
template <typename T>
constexpr int nms_lowest_level() {
  return sizeof(T) == 4 ? -50 : -480;
}

// floor(log4(a)) of a normal, positive number.
inline int area_level(float a) {
  uint32_t bits;
  std::memcpy(&bits, &a, sizeof bits);
  return (static_cast<int>(bits >> 23) - 127) >> 1;
}
inline int area_level(double a) {
  uint64_t bits;
  std::memcpy(&bits, &a, sizeof bits);
  return (static_cast<int>(bits >> 52) - 1023) >> 1;
}

// A box without positive width and height has an IoU of 0 or NaN with everything, and so has one of infinite area.
template <typename T>
inline bool can_overlap(const Box<T>& box, T box_area) {
  return box.x2 > box.x1 && box.y2 > box.y1 && box_area > T(0) && box_area <= std::numeric_limits<T>::max();
}

// Whether the fast path takes the box: a negative power of two and its inverse bound areas, the inverse coordinates
// too.
template <typename T>
inline bool is_ordinary(const Box<T>& box, T box_area) {
  const T smallest = std::ldexp(T(1), 2 * nms_lowest_level<T>()), largest = T(1) / smallest;
  const bool inside = box_area >= smallest && box_area < largest && box.x1 > -largest && box.y1 > -largest &&
                      box.x2 < largest && box.y2 < largest;
  return inside || !can_overlap(box, box_area);  // what overlaps nothing takes part in nothing
}

// Below the threshold by more than a product with it can round, see suppressed_by.
template <typename T>
inline T nms_low(double threshold) {
  return static_cast<T>(threshold * (1.0 - 16.0 * std::numeric_limits<T>::epsilon()));
}

}  // namespace pydet
