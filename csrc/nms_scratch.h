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

// Whether the fast path takes the box: a negative power of two and its inverse bound areas, the inverse coordinates
// too.
template <typename T>
inline bool is_ordinary(const Box<T>& box, T box_area) {
  const T smallest = std::ldexp(T(1), 2 * nms_lowest_level<T>()), largest = T(1) / smallest;
  const bool inside = box_area >= smallest && box_area < largest && box.x1 > -largest && box.y1 > -largest &&
                      box.x2 < largest && box.y2 < largest;
  return inside || !can_overlap(box, box_area);  // what overlaps nothing takes part in nothing
}

}  // namespace pydet
