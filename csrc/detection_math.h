// All arithmetic on boxes, written once, without torch, for host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define PYDET_HD __host__ __device__ __forceinline__
#else
#define PYDET_HD inline __attribute__((always_inline))
#endif

namespace pydet {

// std::max and std::min are not callable from device code, and which operand survives a NaN matters here:
// these return the second one, as the SSE / AVX instructions do.
template <typename T>
PYDET_HD T maximum(T a, T b) {
  return a > b ? a : b;
}
template <typename T>
PYDET_HD T minimum(T a, T b) {
  return a < b ? a : b;
}

// Corners, in any unit; nothing says that x2 > x1.
template <typename T>
struct Box {
  T x1, y1, x2, y2;
};

enum class BoxFormat : int { xyxy = 0, xywh = 1, cxcywh = 2 };

template <typename T>
PYDET_HD Box<T> to_xyxy(T a, T b, T c, T d, BoxFormat format) {
  if (format == BoxFormat::xyxy) return {a, b, c, d};
  if (format == BoxFormat::cxcywh) {
    a = a - T(0.5) * c;
    b = b - T(0.5) * d;
  }
  return {a, b, a + c, b + d};
}

// Not clamped: an inverted box has a negative area, as in torchvision.
template <typename T>
PYDET_HD T area(Box<T> b) {
  return (b.x2 - b.x1) * (b.y2 - b.y1);
}

// A NaN extent stays NaN: (w < 0) is false for it.
template <typename T>
PYDET_HD T intersection(Box<T> a, Box<T> b) {
  T w = minimum(a.x2, b.x2) - maximum(a.x1, b.x1);
  T h = minimum(a.y2, b.y2) - maximum(a.y1, b.y1);
  w = w < T(0) ? T(0) : w;
  h = h < T(0) ? T(0) : h;
  return w * h;
}

// NaN where the union is 0 and nothing overlaps.
template <typename T>
PYDET_HD T iou(Box<T> a, T area_a, Box<T> b, T area_b) {
  const T overlap = intersection(a, b);
  return overlap / (area_a + area_b - overlap);
}

PYDET_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

PYDET_HD float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// IEEE half precision from its bits, branch-free: the exponent is moved by a multiplication, which also normalises.
PYDET_HD float float_of_half(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t finite = bits_of(float_of(magnitude) * 5.192296858534828e33f);  // 2^112
  const uint32_t special = magnitude | 0x7f800000u;                              // inf, or NaN with its payload
  return float_of(sign | (magnitude >= 0x0f800000u ? special : finite));
}

PYDET_HD float float_of_bfloat16(uint16_t bfloat16) { return float_of(static_cast<uint32_t>(bfloat16) << 16); }

// 2^n for -126 <= n <= 128, the last one inf; any other n gives some float, never a trap.
PYDET_HD float power_of_two(int32_t n) { return float_of(static_cast<uint32_t>(n + 127) << 23); }

// e^x = mantissa * 2^exponent for |x| <= 104, NaN in the mantissa. No branch and no table, so that a loop over it
// vectorises, and no fused multiply-add, so that every instruction set and the GPU give the same bits.
struct ScaledExp {
  float mantissa;
  int32_t exponent;
};

PYDET_HD ScaledExp scaled_exp(float x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 leaves n in the low bits: rounding without a conversion, which
  // would be undefined for NaN.
  const float rounder = 12582912.0f;
  const float shifted = x * 1.44269504f + rounder;
  const float n = shifted - rounder;
  // ln 2 in two parts; the first has so few bits that its product with n is exact.
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  // (e^r - 1 - r) / r^2: minimax for the relative error of e^r, 3e-9.
  float p = 1.3814532e-3f;
  p = p * r + 8.368745e-3f;
  p = p * r + 4.1668393e-2f;
  p = p * r + 1.6666521e-1f;
  p = p * r + 4.9999994e-1f;
  return {1.0f + (r + r * r * p), static_cast<int32_t>(bits_of(shifted) - bits_of(rounder))};
}

// Bounds beyond which the result no longer changes; comparisons with NaN are false, which keeps it.
PYDET_HD float bounded(float x, float lowest, float highest) {
  x = x > highest ? highest : x;
  return x < lowest ? lowest : x;
}

// Within 1 ulp, subnormal results and overflow to inf included.
PYDET_HD float exp_f32(float x) {
  const ScaledExp e = scaled_exp(bounded(x, -104.0f, 89.0f));
  // 2^n in two factors: neither overflows where the result does not, and a subnormal result is rounded once.
  const int32_t half = e.exponent >> 1;
  return e.mantissa * power_of_two(half) * power_of_two(e.exponent - half);
}

PYDET_HD float exponential(float x) { return exp_f32(x); }
PYDET_HD double exponential(double x) { return std::exp(x); }

// 1 + e^-x, the divisor of a sigmoid. Beyond the bounds it is 1, or inf (2^128) where the sigmoid would be subnormal.
PYDET_HD float one_plus_exp_minus(float x) {
  const ScaledExp e = scaled_exp(bounded(-x, -87.0f, 89.0f));
  return 1.0f + e.mantissa * power_of_two(e.exponent);
}
PYDET_HD double one_plus_exp_minus(double x) { return 1.0 + std::exp(-x); }

// Within 3 ulp; 0 where the result would be subnormal.
template <typename T>
PYDET_HD T sigmoid(T x) {
  return T(1) / one_plus_exp_minus(x);
}

// confidence * sigmoid(x) with one operation and one rounding less.
template <typename T>
PYDET_HD T scaled_sigmoid(T confidence, T x) {
  return confidence / one_plus_exp_minus(x);
}

// atan(x) within 2 ulp, branch-free. atan x = c + atan t for (c, t) = (0, x), (pi/4, (x - 1) / (x + 1)) or
// (pi/2, -1 / x), so that |t| <= tan(pi / 8).
PYDET_HD float arctangent(float x) {
  const uint32_t sign = bits_of(x) & 0x80000000u;
  const float a = float_of(bits_of(x) ^ sign);
  const bool steep = a > 2.41421356f, middle = a > 0.41421356f;
  const float t = (steep ? -1.0f : middle ? a - 1.0f : a) / (steep ? a : middle ? a + 1.0f : 1.0f);
  const float c = steep ? 1.57079637f : middle ? 0.785398185f : 0.0f;
  const float c_rest = steep ? -4.37113883e-8f : middle ? -2.18556941e-8f : 0.0f;
  // (atan t / t - 1) / t^2: minimax for the relative error of atan t, 7e-10.
  const float z = t * t;
  float p = -0.0608297028f;
  p = p * z + 0.105958208f;
  p = p * z - 0.142438263f;
  p = p * z + 0.199984878f;
  p = p * z - 0.333333164f;
  return float_of(bits_of(c + (t + (t * z * p + c_rest))) | sign);
}
PYDET_HD double arctangent(double x) { return std::atan(x); }

// One axis of the grid of a YOLO head: `stride` pixels a cell, and an anchor's extent in pixels.
template <typename T>
struct YoloAxis {
  T stride, anchor;
};

// YOLOv3 section 2.1: b = sigmoid(t) + c keeps the centre in its cell, the extent scales the anchor by e^t.
template <typename T>
PYDET_HD Box<T> yolo_box(T tx, T ty, T tw, T th, T column, T row, YoloAxis<T> horizontal, YoloAxis<T> vertical) {
  const T x = (column + sigmoid(tx)) * horizontal.stride;
  const T y = (row + sigmoid(ty)) * vertical.stride;
  const T half_width = T(0.5) * exponential(tw) * horizontal.anchor;
  const T half_height = T(0.5) * exponential(th) * vertical.anchor;
  return {x - half_width, y - half_height, x + half_width, y + half_height};
}

}  // namespace pydet
