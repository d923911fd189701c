// Soft-NMS.
#pragma once

#include <limits>

#include "box.h"

namespace pydet {

// Soft-NMS (Bodla et al. 2017), as in mmcv: what a score becomes beside a better box that overlaps it by `overlap`.
// A NaN overlap (two boxes without area) changes nothing.
enum class SoftNmsMethod : int { naive = 0, linear = 1, gaussian = 2 };

template <typename T>
struct SoftNmsRule {
  T iou_threshold, sigma, min_score;
  T offset;  // 1 where x2 and y2 are the last pixel of a box, 0 where they are its edge
};

// NaN is picked first, with what is infinite.
template <typename T>
PYDET_HD T rank_of_score(T score) {
  return score == score ? score : std::numeric_limits<T>::infinity();
}

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

template <SoftNmsMethod kMethod, typename T>
PYDET_HD T soft_nms_decay(T score, T overlap, const SoftNmsRule<T>& rule) {
  if (kMethod == SoftNmsMethod::gaussian) {
    const T decayed = score * exponential(-(overlap * overlap) / rule.sigma);
    return overlap == overlap ? decayed : score;
  }
  const T weight = kMethod == SoftNmsMethod::linear ? T(1) - overlap : T(0);
  return overlap >= rule.iou_threshold ? score * weight : score;
}

}  // namespace pydet
