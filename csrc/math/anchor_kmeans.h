// Boxes that differ in their shape only, and the random numbers that choose among them.
#pragma once

#include <cstdint>

#include "scalar.h"

namespace pydet {

// IoU of two boxes with one centre (YOLOv2 section 2, "Dimension clusters"). 1 to the last bit where they are equal.
template <typename T>
PYDET_HD T shape_iou(T width1, T height1, T area1, T width2, T height2, T area2) {
  const T overlap = minimum(width1, width2) * minimum(height1, height2);
  return overlap / (area1 + area2 - overlap);
}

// SplitMix64 (Steele, Lea and Flood 2014): the same numbers everywhere from one seed.
PYDET_HD uint64_t next_random(uint64_t& state) {
  state += 0x9e3779b97f4a7c15u;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace pydet
