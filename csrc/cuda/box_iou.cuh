// What the kernels of the IoU family share: reading and writing boxes, and a division for boxes of usual size.
#pragma once

#include "../math/box_iou.h"
#include "cuda_utils.cuh"

namespace pydet {

// [..., 4] of T, contiguous. A tensor may begin anywhere in its memory: 16 bytes at a time only where they are aligned.
template <typename T>
__device__ Box<T> load_box(const T* boxes, int64_t i) {
  if constexpr (sizeof(T) == 4) {
    if (reinterpret_cast<uintptr_t>(boxes) % sizeof(float4) == 0) {
      const float4 b = __ldg(reinterpret_cast<const float4*>(boxes) + i);
      return {b.x, b.y, b.z, b.w};
    }
  }
  const T* b = boxes + 4 * i;
  return {b[0], b[1], b[2], b[3]};
}

template <typename T>
__device__ Box<T> load_box(const T* boxes, int64_t i, BoxFormat format) {
  const Box<T> b = load_box(boxes, i);
  return to_xyxy(b.x1, b.y1, b.x2, b.y2, format);
}

// Of a tensor of ours, which begins where 16 bytes are aligned.
template <typename T>
__device__ void store_box(T* boxes, int64_t i, Box<T> b) {
  if constexpr (sizeof(T) == 4) {
    reinterpret_cast<float4*>(boxes)[i] = make_float4(b.x1, b.y1, b.x2, b.y2);
  } else {
    reinterpret_cast<double2*>(boxes)[2 * i] = make_double2(b.x1, b.y1);
    reinterpret_cast<double2*>(boxes)[2 * i + 1] = make_double2(b.x2, b.y2);
  }
}

// The operations of nvcc's own division on every architecture, but for its FCHK and the slow routine behind it, which
// also serves every 0 / x: in a matrix of IoUs most pairs do not overlap. Right for a = 0 and where no operand and no
// result comes near the ends of the exponents, as between regular boxes.
struct RegularDivision {
  __device__ float operator()(float a, float b) const {
#if defined(__CUDA_ARCH__)
    float per_b;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(per_b) : "f"(b));
    per_b = __fmaf_rn(per_b, __fmaf_rn(-b, per_b, 1.0f), per_b);
    const float quotient = a * per_b;
    return __fmaf_rn(per_b, __fmaf_rn(-b, quotient, a), quotient);
#else
    return a / b;
#endif
  }
};

// Not inverted, and corners 0 or of 2^-16 to 2^18 either way: so extents are 0 or at least 2^-39, areas, unions and
// hulls 2^-78 to 2^39, their overlaps and differences 0 or at least 2^-102, quotients 0 or at least 2^-117, and the
// remainder of a division is exact. No branches: every thread asks for its own boxes.
__device__ inline bool is_regular(Box<float> b) {
  const auto usual = [](float x) {
    const uint32_t magnitude = bits_of(x) & 0x7fffffffu;
    return (magnitude == 0) | (magnitude - bits_of(0x1p-16f) <= bits_of(0x1p18f) - bits_of(0x1p-16f));
  };
  return (b.x2 > b.x1) & (b.y2 > b.y1) & usual(b.x1) & usual(b.y1) & usual(b.x2) & usual(b.y2);
}
__device__ inline bool is_regular(Box<double>) { return false; }

}  // namespace pydet
