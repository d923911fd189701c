// One cell of a YOLO head.
#pragma once

#include "box.h"

namespace pydet {

// One axis of the grid of a YOLO head: `stride` pixels a cell, and an anchor's extent in pixels.
template <typename T>
struct YoloAxis {
  T stride, anchor;
};

// YOLOv3 section 2.1: b = sigmoid(t) + c keeps the centre in its cell, the extent scales the anchor by e^t.
template <typename T>
PYDET_HD Box<T> yolo_box(T tx, T ty, T tw, T th, T column, T row, YoloAxis<T> horizontal, YoloAxis<T> vertical) {
  const T x = (column + sigmoid(tx)) * horizontal.stride;
  const T y = (row + sigmoid(ty)) * vertical.stride;
  const T half_width = T(0.5) * exponential(tw) * horizontal.anchor;
  const T half_height = T(0.5) * exponential(th) * vertical.anchor;
  return {x - half_width, y - half_height, x + half_width, y + half_height};
}

}  // namespace pydet
