// Focal losses and their gradients of one logit.
#pragma once

#include "scalar.h"

namespace pydet {

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

// Up to here logits are ordinary: nothing of them over- or underflows.
constexpr float kLargestOrdinary = 87.0f;

// Focal loss (Lin et al. 2017), equation 5, of one logit whose label is 0: p^gamma softplus(x), and its derivative.
// p^(gamma - 1) never appears: it is infinite for gamma < 1, p = 0.
template <FocalPower kPower, bool kFused, bool kOrdinary, typename T>
PYDET_HD LossAndGradient<T> focal_of_background(T x, T weight, T gamma) {
  if (!kOrdinary) x = finite_logit(x);
  const Logistic<T> l = logistic<kFused, kOrdinary>(x);
  const T entropy = by_sign(x, T(0), x) + l.tail;
  if (kPower == FocalPower::zero) return {weight * entropy, weight * l.p};
  T modulation = l.p;
  if (kPower == FocalPower::two) modulation = l.p * l.p;
  if (kPower == FocalPower::any) modulation = exponential<kFused>(-gamma * (by_sign(x, -x, T(0)) + l.tail));
  modulation = weight * modulation;
  return {modulation * entropy, modulation * fused<kFused>(gamma * l.not_p, entropy, l.p)};
}

// The same for t = 0 or 1: label 1 is label 0 of -x with the gradient negated.
template <FocalPower kPower, bool kFused, bool kOrdinary, typename T>
PYDET_HD LossAndGradient<T> focal_of_label(T x, T t, T alpha, T not_alpha, T gamma) {
  const T side = T(0.5) - t;
  const LossAndGradient<T> one =
      focal_of_background<kPower, kFused, kOrdinary>(negated_by(side, x), by_sign(side, alpha, not_alpha), gamma);
  return {one.loss, negated_by(side, one.gradient)};
}

// The same for t between them, torchvision's generalisation: 1 - p_t = p (1 - t) + (1 - p) t.
template <FocalPower kPower, bool kFused, typename T>
PYDET_HD LossAndGradient<T> focal_of_soft_label(T x, T t, T alpha, T not_alpha, T gamma) {
  x = finite_logit(x);
  const Logistic<T> l = logistic<kFused>(x);
  const T not_t = T(1) - t;
  const T positive = l.not_p * t, negative = l.p * not_t;
  const T miss = negative + positive;           // 1 - p_t
  const T slope = l.p * l.not_p * (not_t - t);  // its derivative
  const T error = negative - positive;          // p - t, the derivative of the cross-entropy
  const T entropy = not_t * by_sign(x, T(0), x) + t * by_sign(x, -x, T(0)) + l.tail;
  const T weight = alpha * t + not_alpha * not_t;
  if (kPower == FocalPower::zero) return {weight * entropy, weight * error};
  if (kPower == FocalPower::one) return {weight * miss * entropy, weight * (slope * entropy + miss * error)};
  if (kPower == FocalPower::two) {
    const T weighted = weight * miss;
    return {weighted * miss * entropy, weighted * (T(2) * (slope * entropy) + miss * error)};
  }
  const T modulation = weight * exponential<kFused>(gamma * logarithm(miss));
  return {modulation * entropy, modulation * (gamma * (slope / maximum(miss, smallest_normal<T>())) * entropy + error)};
}

template <typename T>
PYDET_HD bool is_soft(T t) {
  return !(t == T(0) || t == T(1));
}

// Any logit with any label in [0, 1].
template <FocalPower kPower, bool kFused, typename T>
PYDET_HD LossAndGradient<T> focal(T x, T t, T alpha, T not_alpha, T gamma) {
  return is_soft(t) ? focal_of_soft_label<kPower, kFused>(x, t, alpha, not_alpha, gamma)
                    : focal_of_label<kPower, kFused, false>(x, t, alpha, not_alpha, gamma);
}

// -(1 - p)^gamma log p of a softmax, and its derivatives: by the logit of the label, and by any other for each unit of
// that one's exponential.
template <typename T>
struct FocalOfSoftmax {
  T loss, own_slope, others_slope;
};

// `shifted` is the logit of the label minus the largest one, `own` its exponential, `others` the sum of the other
// exponentials: together at least 1.
template <bool kFused, typename T>
PYDET_HD FocalOfSoftmax<T> focal_of_softmax(T shifted, T own, T others, T gamma) {
  const T sum = own + others, share = reciprocal(sum), p = own * share, miss = others * share;
  // Near 1 the logarithm of p is that of 1 + others / own.
  const T log_p = own == T(1) && others < T(1) ? -log1p_of_fraction<kFused>(others) : shifted - logarithm(sum);
  T modulation = T(1);
  if (gamma == T(2)) {
    modulation = miss * miss;
  } else if (gamma != T(0)) {
    modulation = exponential<kFused>(gamma * logarithm(miss));
  }
  const T ratio = miss >= smallest_normal<T>() ? log_p * reciprocal(miss) : T(-1);  // its limit
  const T slope = modulation * (gamma * p * ratio - T(1));                          // by log p
  return {-modulation * log_p, slope * miss, -slope * share};
}

}  // namespace pydet
