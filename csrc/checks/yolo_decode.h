// Contracts of yolo_decode and yolo_grid_decode.
#pragma once

#include <string>
#include <vector>

#include "../math/yolo_decode.h"
#include "common.h"

namespace pydet {

inline void check_image_size(const char* op, const std::vector<int64_t>& image_size) {
  PYDET_CHECK(image_size.size() == 2, op, ": image_size must be (height, width), got ", image_size.size(), " values");
  PYDET_CHECK(image_size[0] > 0 && image_size[1] > 0, op, ": image_size must be positive, got (", image_size[0], ", ",
              image_size[1], ")");
}

// The values of `anchors` are checked where they are read: on a GPU that would wait for the device.
inline YoloClasses check_yolo_decode(const Tensor& inputs,   // [B, A * (5 + C), H, W]
                                     const Tensor& anchors,  // [A, 2]
                                     const std::vector<int64_t>& image_size, const std::string& classes) {
  const char* op = "yolo_decode";
  PYDET_CHECK(is_floating(inputs.scalar_type()), op, ": inputs must be a floating tensor, got ", dtype_of(inputs));
  PYDET_CHECK(is_floating(anchors.scalar_type()), op, ": anchors must be a floating tensor, got ", dtype_of(anchors));
  PYDET_CHECK(inputs.dim() == 4, op, ": inputs must be [B, A * (5 + C), H, W], got ", shape_of(inputs));
  PYDET_CHECK(anchors.dim() == 2 && anchors.size(0) >= 1 && anchors.size(1) == 2, op,
              ": anchors must be [A, 2] with A >= 1, got ", shape_of(anchors));
  const int64_t per_anchor = inputs.size(1) / anchors.size(0);
  PYDET_CHECK(inputs.size(1) % anchors.size(0) == 0 && per_anchor >= 6, op,
              ": inputs must have A * (5 + C) channels, C >= 1, for the A = ", anchors.size(0), " anchors, got ",
              shape_of(inputs));
  check_image_size(op, image_size);
  check_same_device(op, "inputs", inputs, "anchors", anchors);
  if (classes == "sigmoid") return YoloClasses::sigmoid;
  if (classes == "softmax") return YoloClasses::softmax;
  PYDET_CHECK(classes == "logits", op, ": classes must be 'sigmoid', 'softmax' or 'logits', got '", classes, "'");
  return YoloClasses::logits;
}

inline YoloClasses check_yolo_grid_decode(const Tensor& inputs,  // [B, S * S * (C + 5 * N)]
                                          int64_t side, int64_t num_boxes, const std::vector<int64_t>& image_size,
                                          const std::string& classes) {
  const char* op = "yolo_grid_decode";
  PYDET_CHECK(is_floating(inputs.scalar_type()), op, ": inputs must be a floating tensor, got ", dtype_of(inputs));
  PYDET_CHECK(inputs.dim() == 2, op, ": inputs must be [B, S * S * (C + 5 * N)], got ", shape_of(inputs));
  PYDET_CHECK(side >= 1 && side <= 1 << 15, op, ": side must be 1 to 32768, got ", side);
  PYDET_CHECK(num_boxes >= 1 && num_boxes <= 1 << 15, op, ": num_boxes must be 1 to 32768, got ", num_boxes);
  const int64_t cells = side * side, per_cell = inputs.size(1) / cells;
  PYDET_CHECK(inputs.size(1) % cells == 0 && per_cell > 5 * num_boxes, op,
              ": inputs must have S * S * (C + 5 * N) values a row, C >= 1, for S = ", side, " and N = ", num_boxes,
              ", got ", shape_of(inputs));
  check_image_size(op, image_size);
  if (classes == "linear") return YoloClasses::linear;
  PYDET_CHECK(classes == "softmax", op, ": classes must be 'linear' or 'softmax', got '", classes, "'");
  return YoloClasses::softmax;
}

}  // namespace pydet
