// What decides which anchor or predictor a ground truth is for: one pair, host and device, without torch.
#pragma once

#include <limits>

#include "box.h"

namespace pydet {

template <typename T>
using Rank = decltype(rank_of(T()));

// Not inverted and of finite area: with a plain box of positive area it has an IoU in [0, 1], which is 0 where they are
// apart; never NaN, because the union is at least the larger area and can't overflow.
template <typename T>
PYDET_HD bool is_plain(const Box<T>& b, T b_area) {
  return (b.x2 >= b.x1) & (b.y2 >= b.y1) & (b_area <= std::numeric_limits<T>::max() / 4);
}

// Whether nothing inside of `around` overlaps the ground truth: all IoUs are 0. Only for plain boxes.
template <typename T>
PYDET_HD bool apart(const Box<T>& around, const Box<T>& truth) {
  return around.x1 >= truth.x2 || around.x2 <= truth.x1 || around.y1 >= truth.y2 || around.y2 <= truth.y1;
}

// Their IoU to the last bit. Where nothing is NaN a minimum is one instruction of a GPU and not two.
template <typename T>
PYDET_HD T plain_iou(const Box<T>& a, T area_a, const Box<T>& b, T area_b) {
  const T width = std::fmax(std::fmin(a.x2, b.x2) - std::fmax(a.x1, b.x1), T(0));
  const T height = std::fmax(std::fmin(a.y2, b.y2) - std::fmax(a.y1, b.y1), T(0));
  const T overlap = width * height;
  return overlap / (area_a + area_b - overlap);
}

// Width and height of a box or of a prior, which has no place.
template <typename T>
struct Shape {
  T width, height;
};

template <typename T>
PYDET_HD Shape<T> shape_of_box(Box<T> b) {
  return {b.x2 - b.x1, b.y2 - b.y1};
}

// YOLOv2 section 2, YOLOv3 section 2.1: IoU of two boxes laid on one centre.
template <typename T>
PYDET_HD T shape_iou(Shape<T> a, Shape<T> b) {
  const T overlap = minimum(a.width, b.width) * minimum(a.height, b.height);
  return overlap / (a.width * a.height + b.width * b.height - overlap);
}

template <typename T>
struct GridAxis {
  int64_t cells;
  T extent;  // of the picture
};

// Along one axis the cell in which the middle of a box lies; -1 where that is outside of the picture or NaN. It is
// rounded to float32, as in Darknet: a middle that is on an edge but for the rounding of its fraction of the picture,
// 1/13 say, is in the next cell.
template <typename T>
PYDET_HD int64_t cell_at(T first, T last, GridAxis<T> axis) {
  const T at = T(0.5) * (first + last) * static_cast<T>(axis.cells) / axis.extent;
  if (!(at >= T(0) && at < static_cast<T>(axis.cells))) return -1;
  const int64_t cell = static_cast<int64_t>(static_cast<float>(at));
  return sizeof(T) > sizeof(float) && cell == axis.cells ? cell - 1 : cell;  // rounded up, and out of the grid
}

template <typename T>
struct Grid {
  GridAxis<T> x, y;
};

// Cell (row * W + column) that is responsible for a ground truth (YOLO section 2); -1 for one without a positive width
// and height, or whose centre is outside.
template <typename T>
PYDET_HD int64_t cell_of(const Box<T>& truth, const Grid<T>& grid) {
  const int64_t column = cell_at(truth.x1, truth.x2, grid.x), row = cell_at(truth.y1, truth.y2, grid.y);
  return truth.x2 > truth.x1 && truth.y2 > truth.y1 && column >= 0 && row >= 0 ? row * grid.x.cells + column : -1;
}

// Of shapes or overlaps met one after another the best; the first of equals, and the very first where all are 0 or NaN.
template <typename T>
struct BestShape {
  T iou = T(0);
  int64_t index = 0;

  PYDET_HD void meet(int64_t candidate, T candidate_iou) {
    if (candidate_iou > iou) {
      iou = candidate_iou;
      index = candidate;
    }
  }
};

// Centre and size as fractions of the picture: root of the sum of squared differences.
template <typename T>
PYDET_HD T box_distance(const Box<T>& a, const Box<T>& b, const Grid<T>& grid) {
  const T x = (T(0.5) * (a.x1 + a.x2) - T(0.5) * (b.x1 + b.x2)) / grid.x.extent;
  const T y = (T(0.5) * (a.y1 + a.y2) - T(0.5) * (b.y1 + b.y2)) / grid.y.extent;
  const T width = ((a.x2 - a.x1) - (b.x2 - b.x1)) / grid.x.extent;
  const T height = ((a.y2 - a.y1) - (b.y2 - b.y1)) / grid.y.extent;
  return std::sqrt(x * x + y * y + width * width + height * height);
}

// Of the predictions of a cell the responsible one: highest IoU with the ground truth (YOLO section 2); where none
// overlaps it Darknet's [detection] layer takes the nearest within 20 pictures. -1: none, all are NaN or farther.
template <typename T>
struct Responsible {
  T iou = T(0), distance = T(20);
  int64_t index = -1;

  PYDET_HD void meet(int64_t candidate, T candidate_iou, T candidate_distance) {
    const bool by_iou = iou > T(0) || candidate_iou > T(0);
    if (by_iou ? candidate_iou > iou : candidate_distance < distance) {
      iou = by_iou ? candidate_iou : iou;
      distance = by_iou ? distance : candidate_distance;
      index = candidate;
    }
  }
};

}  // namespace pydet
