// Contract of anchor_kmeans.
#pragma once

#include "common.h"

namespace pydet {

// The values of `wh` are checked where they are read.
inline void check_anchor_kmeans(const Tensor& wh,  // [N, 2]
                                int64_t k, int64_t max_iterations) {
  const char* op = "anchor_kmeans";
  PYDET_CHECK(is_floating(wh.scalar_type()), op, ": wh must be a floating tensor, got ", dtype_of(wh));
  PYDET_CHECK(wh.dim() == 2 && wh.size(1) == 2, op, ": wh must be [N, 2], got ", shape_of(wh));
  PYDET_CHECK(wh.size(0) <= int64_t{1} << 27, op, ": wh must have at most 2^27 rows, got ", shape_of(wh));
  PYDET_CHECK(k >= 1 && k <= wh.size(0), op, ": k must be 1 to the number of boxes, ", wh.size(0), ", got ", k);
  PYDET_CHECK(max_iterations >= 0, op, ": max_iterations must not be negative, got ", max_iterations);
}

}  // namespace pydet
