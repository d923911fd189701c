// What encode_boxes and decode_boxes share.
#pragma once

#include "../box_codes.h"
#include "../widen.h"
#include "four.cuh"

namespace pydet {

constexpr int kCodeThreads = 256;  // of a block

// A thread has one box, which it reads once, and row after row of those that share it. `lanes` threads, a power of two
// and at most a warp, have the codes of one box where it has several, so that theirs lie together.
struct CodeRows {
  int64_t sharing, boxes, codes;  // rows are [sharing, boxes], each has as many codes
  int lanes;
};

inline CodeRows code_rows(const Tensor& rel_codes, const Tensor& boxes) {
  const int64_t codes = rel_codes.size(-1) / 4, count = boxes.numel() / 4;
  int lanes = 1;
  while (lanes < codes && lanes < 32) lanes *= 2;
  return {rel_codes.numel() / 4 / codes / count, count, codes, lanes};
}

inline dim3 grid_of(const CodeRows& rows) {
  const int64_t blocks = (rows.boxes * rows.lanes + kCodeThreads - 1) / kCodeThreads;
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min<int64_t>(rows.sharing, 65535)));
}

// The box of this thread, which may be beyond the last.
__device__ inline int64_t box_of_thread(int lanes) {
  return (static_cast<int64_t>(blockIdx.x) * kCodeThreads + threadIdx.x) / static_cast<unsigned>(lanes);
}

// Their own type where both are of one, else that of the arithmetic.
inline ScalarType input_dtype(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() ? a.scalar_type() : wide_dtype(a, b);
}

}  // namespace pydet
