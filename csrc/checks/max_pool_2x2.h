#pragma once

#include "../math/max_pool_2x2.h"
#include "common.h"

namespace pydet {

// Where the windows lie: `step` apart from each other, those of the last row and column perhaps half outside of x.
struct PoolShape {
  int64_t batch, channels, height, width, out_height, out_width, step;
  int64_t image_stride, row_stride, pixel_stride;  // of x, whose channels are adjacent
};

inline PoolShape check_max_pool_2x2(const Tensor& x, int64_t step, const std::vector<int64_t>& size) {
  PYDET_CHECK(x.dim() == 4, "_max_pool_2x2: x must be [B, C, H, W], got ", shape_of(x));
  PYDET_CHECK(is_floating(x.scalar_type()), "_max_pool_2x2: x must be floating point, got ", dtype_of(x));
  PYDET_CHECK(step == 1 || step == 2, "_max_pool_2x2: step must be 1 or 2, got ", step);
  PYDET_CHECK(size.size() == 2 && size[0] >= 0 && size[1] >= 0, "_max_pool_2x2: size must be (height, width), got ",
              list_of(size));
  for (size_t axis = 0; axis < 2; ++axis) {
    const int64_t length = x.size(static_cast<int64_t>(axis) + 2);
    PYDET_CHECK(size[axis] <= (length + step - 1) / step, "_max_pool_2x2: each window must begin inside of ",
                shape_of(x), ", got size ", list_of(size), " with step ", step);
  }
  PYDET_CHECK(x.stride(1) == 1 || x.size(1) <= 1 || x.numel() == 0, "_max_pool_2x2: x must be channels last, got ",
              "strides ", list_of(x.strides()), " of ", shape_of(x));
  return {x.size(0), x.size(1), x.size(2), x.size(3), size[0], size[1], step, x.stride(0), x.stride(2), x.stride(3)};
}

// Of the gradient: x is dense, and the windows 2 apart.
inline PoolShape check_max_pool_2x2_backward(const Tensor& grad, const Tensor& x) {
  PYDET_CHECK(grad.dim() == 4 && x.dim() == 4, "_max_pool_2x2_backward: x and its gradient must be [B, C, H, W], got ",
              shape_of(x), " and ", shape_of(grad));
  const PoolShape shape = check_max_pool_2x2(x, 2, {grad.size(2), grad.size(3)});
  check_gradient("_max_pool_2x2_backward", grad, {x.size(0), x.size(1), grad.size(2), grad.size(3)}, "x", x);
  PYDET_CHECK(grad.scalar_type() == x.scalar_type(), "_max_pool_2x2_backward: the gradient must be of x's dtype ",
              dtype_of(x), ", got ", dtype_of(grad));
  check_channels_last("_max_pool_2x2_backward", "x", x);
  check_channels_last("_max_pool_2x2_backward", "the gradient", grad);
  return shape;
}

// Body sees `scalar_t`, what math/max_pool_2x2.h compares.
#define PYDET_DISPATCH_POOLED(TYPE, ...)             \
  do {                                               \
    const ScalarType type_ = (TYPE);                 \
    if (type_ == ScalarType::Float) {                \
      using scalar_t = float;                        \
      __VA_ARGS__();                                 \
    } else if (type_ == ScalarType::Double) {        \
      using scalar_t = double;                       \
      __VA_ARGS__();                                 \
    } else if (type_ == ScalarType::Half) {          \
      using scalar_t = ::pydet::SixteenBits<0x7c00>; \
      __VA_ARGS__();                                 \
    } else {                                         \
      using scalar_t = ::pydet::SixteenBits<0x7f80>; \
      __VA_ARGS__();                                 \
    }                                                \
  } while (0)

}  // namespace pydet
