// Boxes: formats, areas and overlaps of one pair.
#pragma once

#include "scalar.h"

namespace pydet {

// Corners, in any unit; nothing says that x2 > x1.
template <typename T>
struct Box {
  T x1, y1, x2, y2;
};

enum class BoxFormat : int { xyxy = 0, xywh = 1, cxcywh = 2 };

template <typename T>
PYDET_HD Box<T> to_xyxy(T a, T b, T c, T d, BoxFormat format) {
  if (format == BoxFormat::xyxy) return {a, b, c, d};
  if (format == BoxFormat::cxcywh) {
    a = a - T(0.5) * c;
    b = b - T(0.5) * d;
  }
  return {a, b, a + c, b + d};
}

// Not clamped: an inverted box has a negative area, as in torchvision.
template <typename T>
PYDET_HD T area(Box<T> b) {
  return (b.x2 - b.x1) * (b.y2 - b.y1);
}

// A NaN extent stays NaN: (w < 0) is false for it.
template <typename T>
PYDET_HD T intersection(Box<T> a, Box<T> b) {
  T w = minimum(a.x2, b.x2) - maximum(a.x1, b.x1);
  T h = minimum(a.y2, b.y2) - maximum(a.y1, b.y1);
  w = w < T(0) ? T(0) : w;
  h = h < T(0) ? T(0) : h;
  return w * h;
}

// The same where no area is NaN, else anything: for those whose result is NaN then. A corner that is NaN has such an
// area, and so has a box of an extent that is inf - inf.
template <typename T>
PYDET_HD T intersection_by_areas(Box<T> a, Box<T> b) {
  const T w = smaller(a.x2, b.x2) - larger(a.x1, b.x1);
  const T h = smaller(a.y2, b.y2) - larger(a.y1, b.y1);
  return larger(T(0), w) * larger(T(0), h);
}

// NaN where the union is 0 and nothing overlaps.
template <typename T>
PYDET_HD T iou(Box<T> a, T area_a, Box<T> b, T area_b) {
  const T overlap = intersection_by_areas(a, b);
  return overlap / (area_a + area_b - overlap);
}

}  // namespace pydet
