#pragma once

#include "common.h"

namespace pydet {

// [2, n] of a line of n pixels: the two pixels that each is mixed of, and how much of each.
inline void check_taps(const char* name, const Tensor& taps, const Tensor& parts, int64_t count, const Tensor& image) {
  PYDET_CHECK(taps.scalar_type() == ScalarType::Long && taps.dim() == 2 && taps.size(0) == 2 && taps.size(1) == count,
              "_resample: ", name, " must be int64 [2, ", count, "], got ", dtype_of(taps), " ", shape_of(taps));
  PYDET_CHECK(
      parts.scalar_type() == ScalarType::Float && parts.dim() == 2 && parts.size(0) == 2 && parts.size(1) == count,
      "_resample: the parts of ", name, " must be float32 [2, ", count, "], got ", dtype_of(parts), " ",
      shape_of(parts));
  check_same_device("_resample", "image", image, name, taps);
  check_same_device("_resample", "image", image, "parts", parts);
}

inline void check_resample(const Tensor& image, const Tensor& rows, const Tensor& row_parts, const Tensor& columns,
                           const Tensor& column_parts, const std::vector<double>& mean, const std::vector<double>& std,
                           const Tensor& out) {
  const ScalarType type = image.scalar_type();
  PYDET_CHECK(image.dim() == 3 && image.numel() > 0, "_resample: image must be [C, H, W] and not empty, got ",
              shape_of(image));
  PYDET_CHECK(type == ScalarType::Byte || type == ScalarType::Float || type == ScalarType::Double,
              "_resample: image must be uint8, float32 or float64, got ", dtype_of(image));
  PYDET_CHECK(out.dim() == 3 && out.size(0) == image.size(0), "_resample: out must be [", image.size(0),
              ", H, W], got ", shape_of(out));
  PYDET_CHECK(is_floating(out.scalar_type()), "_resample: out must be floating point, got ", dtype_of(out));
  check_same_device("_resample", "image", image, "out", out);
  check_taps("rows", rows, row_parts, out.size(1), image);
  check_taps("columns", columns, column_parts, out.size(2), image);
  for (const std::vector<double>* values : {&mean, &std}) {
    PYDET_CHECK(values->empty() || static_cast<int64_t>(values->size()) == image.size(0),
                "_resample: mean and std must be one for each of ", image.size(0), " colours, got ", mean.size(),
                " and ", std.size());
  }
  PYDET_CHECK(mean.size() == std.size(), "_resample: mean and std must come together, got ", mean.size(), " and ",
              std.size());
}

// Body sees `in_t`, the picture's type, `work_t`, that of the arithmetic, and `scalar_t`, that of the result.
#define PYDET_DISPATCH_RESAMPLED(IN, OUT, ...)    \
  PYDET_DISPATCH_FLOATING(OUT, "_resample", [&] { \
    const ScalarType type_ = (IN);                \
    if (type_ == ScalarType::Byte) {              \
      using in_t = uint8_t;                       \
      using work_t = float;                       \
      __VA_ARGS__();                              \
    } else if (type_ == ScalarType::Float) {      \
      using in_t = float;                         \
      using work_t = float;                       \
      __VA_ARGS__();                              \
    } else {                                      \
      using in_t = double;                        \
      using work_t = double;                      \
      __VA_ARGS__();                              \
    }                                             \
  })

}  // namespace pydet
