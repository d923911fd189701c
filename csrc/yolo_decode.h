// What yolo_decode and yolo_grid_decode share on both devices.
#pragma once

#include <tuple>
#include <vector>

#include "checks/yolo_decode.h"

namespace pydet {

template <typename T>
struct YoloOutputs {
  T *boxes, *objectness, *scores;
};

// boxes [B, rows, 4], objectness [B, rows], scores [B, rows, C]
inline std::tuple<Tensor, Tensor, Tensor> new_outputs(const Tensor& inputs, int64_t rows, int64_t classes) {
  const int64_t batch = inputs.size(0);
  const ScalarType dtype = wide_dtype(inputs);
  return {new_dense(inputs, {batch, rows, 4}, dtype), new_dense(inputs, {batch, rows}, dtype),
          new_dense(inputs, {batch, rows, classes}, dtype)};
}

template <typename T>
YoloOutputs<T> data_of(const std::tuple<Tensor, Tensor, Tensor>& out) {
  return {std::get<0>(out).mutable_data_ptr<T>(), std::get<1>(out).mutable_data_ptr<T>(),
          std::get<2>(out).mutable_data_ptr<T>()};
}

// YOLO's grid: classes of all cells, objectness of all boxes, boxes; `values` of an image together.
template <typename T>
struct YoloGrid {
  int64_t side, num_boxes, classes, objectness_start, box_start, values;
  YoloAxis<T> horizontal, vertical;
  bool roots;
};

template <typename T>
YoloGrid<T> yolo_grid(int64_t side, int64_t num_boxes, int64_t values, const std::vector<int64_t>& image_size,
                      bool roots) {
  const int64_t cells = side * side, classes = values / cells - 5 * num_boxes;
  return {side,
          num_boxes,
          classes,
          cells * classes,
          cells * (classes + num_boxes),
          values,
          yolo_grid_axis<T>(image_size[1], side),
          yolo_grid_axis<T>(image_size[0], side),
          roots};
}

}  // namespace pydet
