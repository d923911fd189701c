// Arithmetic on single values, for host and device: orders, exponentials and logarithms, the same bits everywhere, save
// what asks for fused multiply-adds where there are none.
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

// The same where it does not matter which number survives a NaN: a GPU has these as one instruction.
template <typename T>
PYDET_HD T larger(T a, T b) {
#if defined(__CUDA_ARCH__)
  return fmax(a, b);
#else
  return maximum(a, b);
#endif
}
template <typename T>
PYDET_HD T smaller(T a, T b) {
#if defined(__CUDA_ARCH__)
  return fmin(a, b);
#else
  return minimum(a, b);
#endif
}

// For functions that are told how to divide.
struct Division {
  template <typename T>
  PYDET_HD T operator()(T a, T b) const {
    return a / b;
  }
};

PYDET_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

PYDET_HD int64_t bits_of(double x) {
  int64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

PYDET_HD float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// a * b + c. kFused: rounded once, by the instruction that GPUs, 64-bit ARM and x86 from AVX2 on have, to the same
// bits. Older x86 rounds twice: software that rounds once takes hundreds of times as long.
template <bool kFused>
PYDET_HD float fused(float a, float b, float c) {
  return kFused ? std::fma(a, b, c) : a * b + c;
}
template <bool kFused>
PYDET_HD double fused(double a, double b, double c) {
  return a * b + c;
}

// |x| in an order of integers, NaN above inf.
PYDET_HD int32_t magnitude(float x) { return static_cast<int32_t>(bits_of(x) & 0x7fffffffu); }

// One of two by the sign of x, as bits: of a comparison compilers make paths through a loop, each with its own copy of
// what follows.
PYDET_HD float by_sign(float x, float negative, float positive) {
  const uint32_t mask = static_cast<uint32_t>(static_cast<int32_t>(bits_of(x)) >> 31);
  return float_of((bits_of(negative) & mask) | (bits_of(positive) & ~mask));
}
PYDET_HD double by_sign(double x, double negative, double positive) { return x < 0 ? negative : positive; }

// x with the other sign where `sign` is negative.
PYDET_HD float negated_by(float sign, float x) { return float_of(bits_of(x) ^ (bits_of(sign) & 0x80000000u)); }
PYDET_HD double negated_by(double sign, double x) { return sign < 0 ? -x : x; }

// A float as an integer in the order in which torch.max sees it: NaN above everything, -0 equal to 0. Integers have no
// unordered pairs, so that comparisons and maxima of ranks vectorise.
PYDET_HD int32_t rank_of(float x) {
  const int32_t bits = static_cast<int32_t>(bits_of(x + 0.0f));
  return x == x ? (bits < 0 ? bits ^ INT32_MAX : bits) : INT32_MAX;
}
PYDET_HD int64_t rank_of(double x) {
  const int64_t bits = bits_of(x + 0.0);
  return x == x ? (bits < 0 ? bits ^ INT64_MAX : bits) : INT64_MAX;
}

// The same for a number that is not negative.
PYDET_HD int32_t rank_of_positive(float x) { return static_cast<int32_t>(bits_of(x + 0.0f)); }
PYDET_HD int64_t rank_of_positive(double x) { return bits_of(x + 0.0); }

// IEEE half precision from its bits, branch-free: the exponent is moved by a multiplication, which also normalises.
PYDET_HD float float_of_half(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t finite = bits_of(float_of(magnitude) * 5.192296858534828e33f);  // 2^112
  const uint32_t special = magnitude | 0x7f800000u;  // inf, or NaN with its payload
  return float_of(sign | (magnitude >= 0x0f800000u ? special : finite));
}

PYDET_HD float float_of_bfloat16(uint16_t bfloat16) { return float_of(static_cast<uint32_t>(bfloat16) << 16); }

// 2^n for -126 <= n <= 128, the last one inf; any other n gives some float, never a trap.
PYDET_HD float power_of_two(int32_t n) { return float_of(static_cast<uint32_t>(n + 127) << 23); }

// e^x = mantissa * 2^exponent for |x| <= 104, NaN in the mantissa. No branch and no table, so that a loop over it
// vectorises.
struct ScaledExp {
  float mantissa;
  int32_t exponent;
  uint32_t low_bits;  // of the exponent, with other bits above them
};

template <bool kFused = false>
PYDET_HD ScaledExp scaled_exp(float x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2. Adding 1.5 * 2^23 leaves n in the low bits: rounding without a conversion, which
  // would be undefined for NaN.
  const float rounder = 12582912.0f;
  const float shifted = fused<kFused>(x, 1.44269504f, rounder);
  const float n = shifted - rounder;
  // ln 2 in two parts; the first has so few bits that its product with n is exact.
  const float r = fused<kFused>(n, 2.12194440e-4f, fused<kFused>(n, -0.693359375f, x));
  // (e^r - 1 - r) / r^2: minimax for the relative error of e^r, 3e-9.
  float p = 1.3814532e-3f;
  p = fused<kFused>(p, r, 8.368745e-3f);
  p = fused<kFused>(p, r, 4.1668393e-2f);
  p = fused<kFused>(p, r, 1.6666521e-1f);
  p = fused<kFused>(p, r, 4.9999994e-1f);
  // One operation less where the product is not rounded.
  p = kFused ? fused<kFused>(fused<kFused>(p, r, 1.0f), r, 1.0f) : 1.0f + (r + r * r * p);
  return {p, static_cast<int32_t>(bits_of(shifted) - bits_of(rounder)), bits_of(shifted)};
}

// Bounds beyond which the result no longer changes; comparisons with NaN are false, which keeps it.
template <typename T>
PYDET_HD T bounded(T x, T lowest, T highest) {
  x = x > highest ? highest : x;
  return x < lowest ? lowest : x;
}

// Within 1 ulp, subnormal results and overflow to inf included.
template <bool kFused = false>
PYDET_HD float exponential(float x) {
  const ScaledExp e = scaled_exp<kFused>(bounded(x, -104.0f, 89.0f));
  // 2^n in two factors: neither overflows where the result does not, and a subnormal result is rounded once.
  const int32_t half = e.exponent >> 1;
  return e.mantissa * power_of_two(half) * power_of_two(e.exponent - half);
}
template <bool kFused = false>
PYDET_HD double exponential(double x) {
  return std::exp(x);
}

// e^x for x <= 0 within 1 ulp, with one multiplication less; 0 where the result would be subnormal. kOrdinary:
// x >= -87, where the exponent can be added to that of the mantissa.
template <bool kFused = false, bool kOrdinary = false>
PYDET_HD float exp_of_negative(float x) {
  // at -88 the exponent is -127, whose power of two is 0
  const ScaledExp e = scaled_exp<kFused>(kOrdinary || !(x < -88.0f) ? x : -88.0f);
  return kOrdinary ? float_of(bits_of(e.mantissa) + (e.low_bits << 23)) : e.mantissa * power_of_two(e.exponent);
}
template <bool kFused = false, bool kOrdinary = false>
PYDET_HD double exp_of_negative(double x) {
  return std::exp(x);
}

// log(1 + x) for 0 <= x <= 1, within 2 ulp.
template <bool kFused = false>
PYDET_HD float log1p_of_fraction(float x) {
  // (log(1 + x) - x) / x^2: minimax for the relative error of the logarithm, 3e-8, the last bits of the coefficients
  // searched for the error with all its roundings.
  float p = 5.36483480e-3f;
  p = fused<kFused>(p, x, -3.00658308e-2f);
  p = fused<kFused>(p, x, 7.92045519e-2f);
  p = fused<kFused>(p, x, -1.37538031e-1f);
  p = fused<kFused>(p, x, 1.91536561e-1f);
  p = fused<kFused>(p, x, -2.48571515e-1f);
  p = fused<kFused>(p, x, 3.33213121e-1f);
  p = fused<kFused>(p, x, -4.99996483e-1f);
  return fused<kFused>(x * x, p, x);
}
template <bool kFused = false>
PYDET_HD double log1p_of_fraction(double x) {
  return std::log1p(x);
}

// Within 2 ulp, subnormal x included; -inf for 0, NaN below it.
PYDET_HD float log_f32(float x) {
  const bool subnormal = x < 1.17549435e-38f;
  const uint32_t bits = bits_of(subnormal ? x * 8388608.0f : x);  // 2^23
  // x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): the bits of sqrt(1/2) are the zero of the exponent.
  const uint32_t shifted = bits - 0x3f3504f3u;
  const float k = static_cast<float>(static_cast<int32_t>(shifted) >> 23) - (subnormal ? 23.0f : 0.0f);
  const float f = float_of((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  // (log(1 + f) - f + f^2 / 2) / f^3: minimax for the relative error of the logarithm, 6e-9.
  float p = -7.63449305e-2f;
  p = p * f + 1.27615756e-1f;
  p = p * f + -1.31601831e-1f;
  p = p * f + 1.42017582e-1f;
  p = p * f + -1.66233573e-1f;
  p = p * f + 2.00012269e-1f;
  p = p * f + -2.50008210e-1f;
  p = p * f + 3.33333317e-1f;
  const float square = f * f;
  // ln 2 in two parts as in scaled_exp.
  float log = (f + (f * square * p - 0.5f * square + k * -2.12194440e-4f)) + k * 0.693359375f;
  log = x > 0.0f ? log : (x == 0.0f ? -float_of(0x7f800000u) : float_of(0x7fc00000u));
  return x < float_of(0x7f800000u) ? log : (x == x ? (x > 0.0f ? x : log) : x);
}

PYDET_HD float logarithm(float x) { return log_f32(x); }
PYDET_HD double logarithm(double x) { return std::log(x); }

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

// sigmoid(x), sigmoid(-x) and log(1 + e^-|x|), each to its own last digits: nothing is subtracted from 1.
template <typename T>
struct Logistic {
  T p, not_p, tail;
};

// 1 / x for 2^-126 <= x <= 2^126, correctly rounded. A GPU divides with a test for what else x could be, and a call.
PYDET_HD float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return std::fma(r, -std::fma(x, r, -1.0f), r);
#else
  return 1.0f / x;
#endif
}
PYDET_HD double reciprocal(double x) { return 1.0 / x; }

// kOrdinary: |x| <= 87, where nothing has to be kept from overflowing.
template <bool kFused = false, bool kOrdinary = false, typename T>
PYDET_HD Logistic<T> logistic(T x) {
  const T e = exp_of_negative<kFused, kOrdinary>(-std::fabs(x));
  const T larger = reciprocal(T(1) + e), smaller = e * larger;
  return {by_sign(x, smaller, larger), by_sign(x, larger, smaller), log1p_of_fraction<kFused>(e)};
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

}  // namespace pydet
