// What the NMS kernels of every instruction set share: memory that is reused between classes, and which boxes count.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "math/nms.h"

namespace pydet {

struct NmsCell {
  uint32_t begin;  // first slot of its kept boxes
  uint32_t count;  // how many are kept so far
};

template <typename T>
struct NmsScratch {
  std::vector<T> kept;
  std::vector<NmsCell> cells;
  std::vector<uint32_t> cell_of_box;
};

// Boxes compared at a time.
template <typename T>
constexpr int64_t nms_block() {
  return 64 / sizeof(T);
}

// Whether the fast path takes the box: a negative power of two and its inverse bound areas, the inverse coordinates
// too.
template <typename T>
inline bool is_ordinary(const Box<T>& box, T box_area) {
  if (!can_overlap(box, box_area)) return true;  // it takes part in nothing
  const T smallest = std::ldexp(T(1), 2 * nms_lowest_level<T>()), largest = T(1) / smallest;
  return box_area >= smallest && box_area < largest && box.x1 > -largest && box.y1 > -largest && box.x2 < largest &&
         box.y2 < largest;
}

}  // namespace pydet
