// Contract of yolo_decode.
#pragma once

#include <vector>

#include "common.h"

namespace pydet {

// The values of `anchors` are checked where they are read: on a GPU that would wait for the device.
inline void check_yolo_decode(const Tensor& inputs,   // [B, A * (5 + C), H, W]
                              const Tensor& anchors,  // [A, 2]
                              const std::vector<int64_t>& image_size) {
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
  PYDET_CHECK(image_size.size() == 2, op, ": image_size must be (height, width), got ", image_size.size(), " values");
  PYDET_CHECK(image_size[0] > 0 && image_size[1] > 0, op, ": image_size must be positive, got (", image_size[0], ", ",
              image_size[1], ")");
  check_same_device(op, "inputs", inputs, "anchors", anchors);
}

}  // namespace pydet
