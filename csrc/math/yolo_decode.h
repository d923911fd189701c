// One cell of a YOLO head.
#pragma once

#include "box.h"

namespace pydet {

// What the class scores of a cell are made of; all but the logits are multiplied by the objectness.
enum class YoloClasses : int { sigmoid, softmax, logits, linear };

// A softmax is summed in 16 parts, class c in part c % 16, whatever the layout and the width of the vectors: the same
// bits from every kernel. Then part i takes part i + 8, i + 4, i + 2 and i + 1.
constexpr int kSoftmaxParts = 16;

template <int kHalf = kSoftmaxParts / 2, typename T>
PYDET_HD T sum_of_parts(const T (&parts)[2 * kHalf]) {
  T halves[kHalf];
  for (int i = 0; i < kHalf; ++i) halves[i] = parts[i] + parts[i + kHalf];
  if constexpr (kHalf == 1) {
    return halves[0];
  } else {
    return sum_of_parts<kHalf / 2>(halves);
  }
}

template <int kHalf = kSoftmaxParts / 2, typename T>
PYDET_HD T largest_part(const T (&parts)[2 * kHalf]) {
  T halves[kHalf];
  for (int i = 0; i < kHalf; ++i) halves[i] = maximum(parts[i + kHalf], parts[i]);
  if constexpr (kHalf == 1) {
    return halves[0];
  } else {
    return largest_part<kHalf / 2>(halves);
  }
}

// One axis of the grid of a YOLO head: `stride` pixels a cell, and the extent of an anchor, or of the picture where
// there are no anchors, in pixels.
template <typename T>
struct YoloAxis {
  T stride, extent;
};

template <typename T>
PYDET_HD Box<T> box_around(T x, T y, T half_width, T half_height) {
  return {x - half_width, y - half_height, x + half_width, y + half_height};
}

// YOLOv2 section 2, YOLOv3 section 2.1: b = sigmoid(t) + c keeps the centre in its cell, the extent scales the anchor
// by e^t.
template <typename T>
PYDET_HD Box<T> yolo_box(T tx, T ty, T tw, T th, T column, T row, YoloAxis<T> horizontal, YoloAxis<T> vertical) {
  const T x = (column + sigmoid(tx)) * horizontal.stride;
  const T y = (row + sigmoid(ty)) * vertical.stride;
  return box_around(x, y, T(0.5) * exponential(tw) * horizontal.extent, T(0.5) * exponential(th) * vertical.extent);
}

// YOLO section 2: the centre relative to its cell, the extents to the picture; Darknet's sqrt=1: as their roots.
template <typename T>
PYDET_HD Box<T> yolo_grid_box(T px, T py, T pw, T ph, T column, T row, YoloAxis<T> horizontal, YoloAxis<T> vertical,
                              bool roots) {
  const T x = (column + px) * horizontal.stride;
  const T y = (row + py) * vertical.stride;
  const T width = roots ? pw * pw : pw, height = roots ? ph * ph : ph;
  return box_around(x, y, T(0.5) * width * horizontal.extent, T(0.5) * height * vertical.extent);
}

template <typename T>
PYDET_HD YoloAxis<T> yolo_grid_axis(int64_t pixels, int64_t side) {
  return {static_cast<T>(static_cast<double>(pixels) / static_cast<double>(side)), static_cast<T>(pixels)};
}

// The score of one class, where it does not depend on the others.
template <YoloClasses kClasses, typename T>
PYDET_HD T yolo_score(T confidence, T logit) {
  static_assert(kClasses != YoloClasses::softmax);
  if (kClasses == YoloClasses::sigmoid) return scaled_sigmoid(confidence, logit);
  return kClasses == YoloClasses::linear ? confidence * logit : logit;
}

}  // namespace pydet
