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

// Soft-NMS (Bodla et al. 2017), as in mmcv: what a score becomes beside a better box that overlaps it by `overlap`.
// A NaN overlap (two boxes without area) changes nothing.
enum class SoftNmsMethod : int { naive = 0, linear = 1, gaussian = 2 };

template <typename T>
struct SoftNmsRule {
  T iou_threshold, sigma, min_score;
  T offset;  // 1 where x2 and y2 are the last pixel of a box, 0 where they are its edge
};

template <typename T>
PYDET_HD T soft_nms_area(Box<T> b, T offset) {
  return (b.x2 - b.x1 + offset) * (b.y2 - b.y1 + offset);
}

template <typename T>
PYDET_HD T soft_nms_iou(Box<T> a, T area_a, Box<T> b, T area_b, T offset) {
  const T w = minimum(a.x2, b.x2) - maximum(a.x1, b.x1) + offset;
  const T h = minimum(a.y2, b.y2) - maximum(a.y1, b.y1) + offset;
  const T overlap = (w < T(0) ? T(0) : w) * (h < T(0) ? T(0) : h);
  return overlap / (area_a + area_b - overlap);
}

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
template <typename T>
PYDET_HD T bounded(T x, T lowest, T highest) {
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

template <SoftNmsMethod kMethod, typename T>
PYDET_HD T soft_nms_decay(T score, T overlap, const SoftNmsRule<T>& rule) {
  if (kMethod == SoftNmsMethod::gaussian) {
    const T decayed = score * exponential(-(overlap * overlap) / rule.sigma);
    return overlap == overlap ? decayed : score;
  }
  const T weight = kMethod == SoftNmsMethod::linear ? T(1) - overlap : T(0);
  return overlap >= rule.iou_threshold ? score * weight : score;
}

// e^x for x <= 0 within 1 ulp, with one multiplication less; 0 where the result would be subnormal.
PYDET_HD float exp_of_negative(float x) {
  const ScaledExp e = scaled_exp(x < -88.0f ? -88.0f : x);  // at -88 the exponent is -127, whose power of two is 0
  return e.mantissa * power_of_two(e.exponent);
}
PYDET_HD double exp_of_negative(double x) { return std::exp(x); }

// log(1 + x) for 0 <= x <= 1, within 2 ulp.
PYDET_HD float log1p_of_fraction(float x) {
  // (log(1 + x) - x) / x^2: minimax for the relative error of the logarithm, 5e-9.
  float p = -3.31846963e-3f;
  p = p * x + 2.02045719e-2f;
  p = p * x + -5.76644199e-2f;
  p = p * x + 1.06805531e-1f;
  p = p * x + -1.53553949e-1f;
  p = p * x + 1.96954001e-1f;
  p = p * x + -2.49585873e-1f;
  p = p * x + 3.33305113e-1f;
  p = p * x + -4.99999328e-1f;
  return x + x * x * p;
}
PYDET_HD double log1p_of_fraction(double x) { return std::log1p(x); }

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

template <typename T>
PYDET_HD Logistic<T> logistic(T x) {
  const T e = exp_of_negative(-std::fabs(x));
  const T larger = T(1) / (T(1) + e), smaller = e * larger;
  return {x < T(0) ? smaller : larger, x < T(0) ? larger : smaller, log1p_of_fraction(e)};
}

// The focusing parameters with a formula of their own; the others need a logarithm and an exponential more.
enum class FocalPower : int { zero, one, two, any };

PYDET_HD FocalPower focal_power(double gamma) {
  return gamma == 0 ? FocalPower::zero : gamma == 1 ? FocalPower::one : gamma == 2 ? FocalPower::two : FocalPower::any;
}

// Losses of infinite logits would be infinite, and inf * 0, which is NaN, their gradients: all beyond 2^64 count as
// that.
template <typename T>
PYDET_HD T finite_logit(T x) {
  return bounded(x, T(-18446744073709551616.0), T(18446744073709551616.0));
}

template <typename T>
PYDET_HD T smallest_normal() {
  return sizeof(T) == sizeof(float) ? T(1.17549435e-38) : T(2.2250738585072014e-308);
}

template <typename T>
struct LossAndGradient {
  T loss, gradient;
};

// Focal loss (Lin et al. 2017), equation 5, of one logit whose label is 0: p^gamma softplus(x), and its derivative. The
// label 1 is the same with -x and the gradient negated. p^(gamma - 1) never appears: it is infinite for gamma < 1, p =
// 0.
template <FocalPower kPower, typename T>
PYDET_HD LossAndGradient<T> focal_of_background(T x, T weight, T gamma) {
  x = finite_logit(x);
  const Logistic<T> l = logistic(x);
  const T entropy = maximum(x, T(0)) + l.tail;
  T modulation = T(1);
  if (kPower == FocalPower::one) modulation = l.p;
  if (kPower == FocalPower::two) modulation = l.p * l.p;
  if (kPower == FocalPower::any) modulation = exponential(-gamma * (maximum(-x, T(0)) + l.tail));
  modulation = weight * modulation;
  return {modulation * entropy, modulation * (gamma * (l.not_p * entropy) + l.p)};
}

// The same for any label t in [0, 1], torchvision's generalisation: 1 - p_t = p (1 - t) + (1 - p) t.
template <FocalPower kPower, typename T>
PYDET_HD LossAndGradient<T> focal(T x, T t, T alpha, T not_alpha, T gamma) {
  x = finite_logit(x);
  const Logistic<T> l = logistic(x);
  const T not_t = T(1) - t;
  const T positive = l.not_p * t, negative = l.p * not_t;
  const T miss = negative + positive;                         // 1 - p_t
  const T slope = l.p * l.not_p * (not_t - t);                // its derivative
  const T error = negative - positive;                        // p - t, the derivative of the cross-entropy
  const T entropy = not_t * maximum(x, T(0)) + t * maximum(-x, T(0)) + l.tail;
  const T weight = alpha * t + not_alpha * not_t;
  if (kPower == FocalPower::zero) return {weight * entropy, weight * error};
  if (kPower == FocalPower::one) return {weight * miss * entropy, weight * (slope * entropy + miss * error)};
  if (kPower == FocalPower::two) {
    const T weighted = weight * miss;
    return {weighted * miss * entropy, weighted * (T(2) * (slope * entropy) + miss * error)};
  }
  const T modulation = weight * exponential(gamma * logarithm(miss));
  return {modulation * entropy, modulation * (gamma * (slope / maximum(miss, smallest_normal<T>())) * entropy + error)};
}

// -(1 - p)^gamma log p of a softmax, and its derivative by log p: the derivative by the logit c is slope (delta - p_c).
template <typename T>
struct FocalOfSoftmax {
  T loss, slope;
};

// `shifted` is the logit minus the largest one, `own` its exponential, `others` the sum of the other exponentials.
template <typename T>
PYDET_HD FocalOfSoftmax<T> focal_of_softmax(T shifted, T own, T others, T gamma) {
  const T sum = own + others, p = own / sum, miss = others / sum;
  // Near 1 the logarithm of p is that of 1 + others / own.
  const T log_p = own == T(1) && others < T(1) ? -log1p_of_fraction(others) : shifted - logarithm(sum);
  T modulation = T(1);
  if (gamma == T(2)) {
    modulation = miss * miss;
  } else if (gamma != T(0)) {
    modulation = exponential(gamma * logarithm(miss));
  }
  const T ratio = miss > T(0) ? log_p / miss : T(-1);  // its limit
  return {-modulation * log_p, modulation * (gamma * p * ratio - T(1))};
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

// R-CNN's regression of a box from another one (Girshick et al. 2014, appendix C), with torchvision's weights, which
// are SSD's inverse variances. One axis at a time: the code of the centre and that of the size.
template <typename T>
struct AxisCode {
  T centre, size;
};

// Corners along one axis.
template <typename T>
struct Span {
  T low, high;
};

template <typename T>
PYDET_HD AxisCode<T> encode_axis(Span<T> target, Span<T> box, AxisCode<T> weight) {
  const T size = box.high - box.low, target_size = target.high - target.low;
  const T shift = (target.low + T(0.5) * target_size) - (box.low + T(0.5) * size);
  return {weight.centre * shift / size, weight.size * logarithm(target_size / size)};
}

// The size's code is at most `clip` before e^x: a network's early guesses would overflow.
template <typename T>
PYDET_HD Span<T> decode_axis(AxisCode<T> code, Span<T> box, AxisCode<T> weight, T clip) {
  const T size = box.high - box.low;
  const T scale = code.size / weight.size;
  const T centre = code.centre / weight.centre * size + (box.low + T(0.5) * size);
  const T half = T(0.5) * (exponential(scale > clip ? clip : scale) * size);
  return {centre - half, centre + half};
}

// Gradients of both boxes from that of the code.
template <typename T>
struct EncodeGradient {
  Span<T> target, box;
};

template <typename T>
PYDET_HD Span<T> span_gradient(T centre, T size) {
  return {T(0.5) * centre - size, T(0.5) * centre + size};
}

template <typename T>
PYDET_HD EncodeGradient<T> encode_axis_gradient(Span<T> target, Span<T> box, AxisCode<T> weight, AxisCode<T> grad) {
  const T size = box.high - box.low, target_size = target.high - target.low;
  const T shift = (target.low + T(0.5) * target_size) - (box.low + T(0.5) * size);
  const T centre = grad.centre * weight.centre / size;
  const T scale = grad.size * weight.size;
  return {span_gradient(centre, scale / target_size), span_gradient(-centre, -(centre * shift + scale) / size)};
}

// Gradients of the code and of the box from that of the decoded corners. Nothing passes where the clip holds.
template <typename T>
struct DecodeGradient {
  AxisCode<T> code;
  Span<T> box;
};

template <typename T>
PYDET_HD DecodeGradient<T> decode_axis_gradient(AxisCode<T> code, Span<T> box, AxisCode<T> weight, T clip,
                                                Span<T> grad) {
  const T size = box.high - box.low;
  const T scale = code.size / weight.size;
  const T factor = exponential(scale > clip ? clip : scale);
  const T centre = grad.low + grad.high;
  const T decoded_size = T(0.5) * (grad.high - grad.low);
  const T size_code = decoded_size * factor * size / weight.size;
  return {{centre * size / weight.centre, scale <= clip ? size_code : T(0)},
          span_gradient(centre, centre * (code.centre / weight.centre) + decoded_size * factor)};
}

}  // namespace pydet
