// The members of the IoU family and their gradients, for one pair of boxes; host and device, without torch.
#pragma once

#include "box.h"

namespace pydet {

// GIoU: Rezatofighi et al. 2019. DIoU and CIoU: Zheng et al. 2020. Foreground: the overlap over the area of the first
// box, which is IoF in mmcv and COCO's IoU with a crowd.
enum class IouKind : int { iou = 0, generalized = 1, distance = 2, complete = 3, foreground = 4 };

// A box with what all its pairs share. `angle` is atan(width / height), used by the complete IoU only.
template <typename T>
struct IouBox {
  Box<T> box;
  T area, angle;
};

template <IouKind kind, typename T>
PYDET_HD IouBox<T> to_iou_box(Box<T> b) {
  const T angle = kind == IouKind::complete ? arctangent((b.x2 - b.x1) / (b.y2 - b.y1)) : T(0);
  return {b, area(b), angle};
}

// What torchvision's functions of all pairs and its losses do differently.
template <typename T>
struct IouRules {
  T union_eps, hull_eps, aspect_eps;  // added to divisors
  T least_extent;                     // of the hull: 0, or -inf where it is not clamped
};

template <typename T>
struct Extent {
  T width, height;
};

// Of the smallest box around both; where an area is NaN, anything.
template <typename T>
PYDET_HD Extent<T> hull(Box<T> a, Box<T> b, T least) {
  const T width = larger(a.x2, b.x2) - smaller(a.x1, b.x1);
  const T height = larger(a.y2, b.y2) - smaller(a.y1, b.y1);
  return {larger(least, width), larger(least, height)};
}

// From the centre of b to the centre of a.
template <typename T>
PYDET_HD Extent<T> between_centres(Box<T> a, Box<T> b) {
  return {T(0.5) * (a.x1 + a.x2) - T(0.5) * (b.x1 + b.x2), T(0.5) * (a.y1 + a.y2) - T(0.5) * (b.y1 + b.y2)};
}

constexpr double kAspectScale = 0.40528473456935108578;  // 4 / pi^2: v of CIoU lies between 0 and 1

template <IouKind kind, typename T, typename Divide = Division>
PYDET_HD T pair_iou(const IouBox<T>& a, const IouBox<T>& b, const IouRules<T>& rules, Divide divide = {}) {
  if constexpr (kind == IouKind::foreground) return divide(intersection(a.box, b.box), a.area);
  const T overlap = intersection_by_areas(a.box, b.box);
  const T joint = a.area + b.area - overlap;
  if constexpr (kind == IouKind::iou) return divide(overlap, joint);
  const T iou = divide(overlap, joint + rules.union_eps);
  const Extent<T> around = hull(a.box, b.box, rules.least_extent);
  if constexpr (kind == IouKind::generalized) {
    const T hull_area = around.width * around.height;
    return iou - divide(hull_area - joint, hull_area + rules.hull_eps);
  }
  const Extent<T> apart = between_centres(a.box, b.box);
  const T diagonal = around.width * around.width + around.height * around.height + rules.hull_eps;
  const T diou = iou - (apart.width * apart.width + apart.height * apart.height) / diagonal;
  if constexpr (kind == IouKind::complete) {
    const T turn = a.angle - b.angle;
    const T v = T(kAspectScale) * (turn * turn);
    return diou - v / (T(1) - iou + v + rules.aspect_eps) * v;
  }
  return diou;
}

// Gradient of a pair: of the corners of both boxes as far as they are of this pair alone, of their areas (which are
// equal, but that of b is 0 where only a is divided by), and of the angle of a (that of b is its negative).
template <typename T>
struct IouGradient {
  Box<T> a, b;
  T area_a, area_b, angle;
};

// How much of the gradient of max(a, b) is that of a: ties are shared, as in torch.
template <typename T>
PYDET_HD T share_of_first(T a, T b) {
  return a > b ? T(1) : a == b ? T(0.5) : T(0);
}

// A pair whose gradient is 0 contributes 0, even where its derivative is NaN or inf: what a loss masks out stays out.
// In bits: were it a choice between values, the compiler would make it a branch around what the derivative alone needs,
// and no loop with a branch becomes vectors.
PYDET_HD float chain(float gradient, float derivative) {
  return float_of(bits_of(gradient * derivative) & (gradient == 0.0f ? 0u : ~0u));
}
PYDET_HD double chain(double gradient, double derivative) {
  uint64_t bits;
  const double product = gradient * derivative;
  memcpy(&bits, &product, sizeof(bits));
  bits &= gradient == 0.0 ? uint64_t{0} : ~uint64_t{0};
  double result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

template <IouKind kind, typename T>
PYDET_HD IouGradient<T> pair_iou_gradient(const IouBox<T>& a, const IouBox<T>& b, const IouRules<T>& rules,
                                          T gradient) {
  const T width = minimum(a.box.x2, b.box.x2) - maximum(a.box.x1, b.box.x1);
  const T height = minimum(a.box.y2, b.box.y2) - maximum(a.box.y1, b.box.y1);
  const T w = width < T(0) ? T(0) : width, h = height < T(0) ? T(0) : height;
  const T overlap = w * h;
  const T joint = kind == IouKind::foreground ? a.area : a.area + b.area - overlap;
  const T per_union = T(1) / (joint + rules.union_eps);
  const T iou = overlap * per_union;
  T to_overlap = kind == IouKind::foreground ? per_union : (T(1) + iou) * per_union, to_area = -iou * per_union;
  T to_hull_width = T(0), to_hull_height = T(0), to_x = T(0), to_y = T(0), to_angle = T(0);
  if constexpr (kind == IouKind::generalized) {
    const Extent<T> around = hull(a.box, b.box, rules.least_extent);
    const T hull_area = around.width * around.height;
    const T per_hull = T(1) / (hull_area + rules.hull_eps);
    const T to_hull = ((hull_area - joint) * per_hull - T(1)) * per_hull;
    to_overlap -= per_hull;
    to_area += per_hull;
    to_hull_width = to_hull * around.height;
    to_hull_height = to_hull * around.width;
  }
  if constexpr (kind == IouKind::distance || kind == IouKind::complete) {
    const Extent<T> around = hull(a.box, b.box, rules.least_extent);
    const Extent<T> apart = between_centres(a.box, b.box);
    const T per_diagonal = T(1) / (around.width * around.width + around.height * around.height + rules.hull_eps);
    const T ratio = (apart.width * apart.width + apart.height * apart.height) * per_diagonal;
    to_hull_width = T(2) * ratio * per_diagonal * around.width;
    to_hull_height = T(2) * ratio * per_diagonal * around.height;
    to_x = -apart.width * per_diagonal;  // of one corner: half of the centre's
    to_y = -apart.height * per_diagonal;
  }
  if constexpr (kind == IouKind::complete) {
    const T turn = a.angle - b.angle;
    const T v = T(kAspectScale) * (turn * turn);
    const T alpha = v / (T(1) - iou + v + rules.aspect_eps);  // held constant, as the paper does
    to_angle = alpha * T(-2 * kAspectScale) * turn;
  }
  const T in_width = width > T(0) ? T(1) : T(0);  // none where they only touch
  const T in_height = height > T(0) ? T(1) : T(0);
  const T g_width = chain(gradient, to_overlap * h * in_width), g_height = chain(gradient, to_overlap * w * in_height);
  const T g_hull_width = chain(gradient, to_hull_width), g_hull_height = chain(gradient, to_hull_height);
  const T g_x = chain(gradient, to_x), g_y = chain(gradient, to_y);
  const T g_area = chain(gradient, to_area);
  // What holds the overlap on one side is a's share; what holds the hull there is the rest.
  const T left = share_of_first(a.box.x1, b.box.x1), top = share_of_first(a.box.y1, b.box.y1);
  const T right = share_of_first(b.box.x2, a.box.x2), bottom = share_of_first(b.box.y2, a.box.y2);
  const T far_left = T(1) - left, far_top = T(1) - top, far_right = T(1) - right, far_bottom = T(1) - bottom;
  return {
      {g_x - (g_width * left + g_hull_width * far_left), g_y - (g_height * top + g_hull_height * far_top),
       g_x + (g_width * right + g_hull_width * far_right), g_y + (g_height * bottom + g_hull_height * far_bottom)},
      {-g_x - (g_width * far_left + g_hull_width * left), -g_y - (g_height * far_top + g_hull_height * top),
       -g_x + (g_width * far_right + g_hull_width * right), -g_y + (g_height * far_bottom + g_hull_height * bottom)},
      g_area,
      kind == IouKind::foreground ? T(0) : g_area,
      chain(gradient, to_angle)};
}

// Corners' gradient with that of area and angle brought in.
template <IouKind kind, typename T>
PYDET_HD Box<T> corner_gradient(Box<T> box, Box<T> corners, T of_area, T of_angle) {
  const T w = box.x2 - box.x1, h = box.y2 - box.y1;
  T of_width = of_area * h, of_height = of_area * w;
  if (kind == IouKind::complete && of_angle != T(0)) {  // d atan(w / h) = (h dw - w dh) / (w^2 + h^2)
    const T scale = of_angle / (w * w + h * h);
    of_width += scale * h;
    of_height -= scale * w;
  }
  return {corners.x1 - of_width, corners.y1 - of_height, corners.x2 + of_width, corners.y2 + of_height};
}

// The gradient of the four numbers that to_xyxy took, from that of the corners that it gave.
template <typename T>
PYDET_HD Box<T> from_xyxy_gradient(Box<T> g, BoxFormat format) {
  if (format == BoxFormat::xyxy) return g;
  const T x = g.x1 + g.x2, y = g.y1 + g.y2;
  if (format == BoxFormat::xywh) return {x, y, g.x2, g.y2};
  return {x, y, T(0.5) * (g.x2 - g.x1), T(0.5) * (g.y2 - g.y1)};
}

}  // namespace pydet
