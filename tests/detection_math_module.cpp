// csrc/detection_math.h for numpy: each function takes arrays and broadcasts. No torch.
#include "detection_math.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;
using namespace pydet;

namespace {

template <typename T>
T component(Box<T> b, int i) {
  return i == 0 ? b.x1 : i == 1 ? b.y1 : i == 2 ? b.x2 : b.y2;
}

template <typename T>
T iou_of(T ax1, T ay1, T ax2, T ay2, T bx1, T by1, T bx2, T by2) {
  const Box<T> a{ax1, ay1, ax2, ay2}, b{bx1, by1, bx2, by2};
  return iou(a, area(a), b, area(b));
}

template <typename T>
T intersection_of(T ax1, T ay1, T ax2, T ay2, T bx1, T by1, T bx2, T by2) {
  return intersection(Box<T>{ax1, ay1, ax2, ay2}, Box<T>{bx1, by1, bx2, by2});
}

template <typename T>
T area_of(T x1, T y1, T x2, T y2) {
  return area(Box<T>{x1, y1, x2, y2});
}

template <typename T>
T corner_of(T a, T b, T c, T d, int format, int i) {
  return component(to_xyxy(a, b, c, d, static_cast<BoxFormat>(format)), i);
}

template <typename T>
T yolo_corner(T tx, T ty, T tw, T th, T column, T row, T stride_x, T stride_y, T width, T height, int i) {
  return component(yolo_box(tx, ty, tw, th, column, row, YoloAxis<T>{stride_x, width}, YoloAxis<T>{stride_y, height}),
                   i);
}

template <typename T>
T yolo_grid_corner(T px, T py, T pw, T ph, T column, T row, T stride, T extent, bool roots, int i) {
  const YoloAxis<T> axis{stride, extent};
  return component(yolo_grid_box(px, py, pw, ph, column, row, axis, axis, roots), i);
}

// The parts are first + i * step.
template <typename T>
T combined_parts(T first, T step, bool largest) {
  T parts[kSoftmaxParts];
  for (int i = 0; i < kSoftmaxParts; ++i) parts[i] = first + static_cast<T>(i) * step;
  return largest ? largest_part(parts) : sum_of_parts(parts);
}

template <typename T, bool kFused, bool kOrdinary>
T logistic_part(T x, int i) {
  const Logistic<T> l = logistic<kFused, kOrdinary>(x);
  return i == 0 ? l.p : i == 1 ? l.not_p : l.tail;
}

template <typename T, bool kFused>
T focal_part(T x, T t, T alpha, T not_alpha, T gamma, int i) {
  LossAndGradient<T> f;
  switch (focal_power(gamma)) {
    case FocalPower::zero:
      f = focal<FocalPower::zero, kFused>(x, t, alpha, not_alpha, gamma);
      break;
    case FocalPower::one:
      f = focal<FocalPower::one, kFused>(x, t, alpha, not_alpha, gamma);
      break;
    case FocalPower::two:
      f = focal<FocalPower::two, kFused>(x, t, alpha, not_alpha, gamma);
      break;
    default:
      f = focal<FocalPower::any, kFused>(x, t, alpha, not_alpha, gamma);
  }
  return i == 0 ? f.loss : f.gradient;
}

template <typename T>
bool plain_of(T x1, T y1, T x2, T y2) {
  const Box<T> b{x1, y1, x2, y2};
  return is_plain(b, area(b));
}

template <typename T>
T plain_iou_of(T ax1, T ay1, T ax2, T ay2, T bx1, T by1, T bx2, T by2) {
  const Box<T> a{ax1, ay1, ax2, ay2}, b{bx1, by1, bx2, by2};
  return plain_iou(a, area(a), b, area(b));
}

template <typename T>
bool apart_of(T ax1, T ay1, T ax2, T ay2, T bx1, T by1, T bx2, T by2) {
  return apart(Box<T>{ax1, ay1, ax2, ay2}, Box<T>{bx1, by1, bx2, by2});
}

template <typename T>
T shape_iou_of(T width_a, T height_a, T width_b, T height_b) {
  return shape_iou(Shape<T>{width_a, height_a}, Shape<T>{width_b, height_b});
}

template <typename T>
int64_t cell_index(T first, T last, int64_t cells, T extent) {
  return cell_at(first, last, GridAxis<T>{cells, extent});
}

// A submodule a type, so that numpy's conversion to the other type can't hide a difference, and one for the arithmetic
// with fused multiply-adds.
template <typename T, bool kFused>
void define(py::module_ m) {
  m.def("maximum", py::vectorize(maximum<T>));
  m.def("minimum", py::vectorize(minimum<T>));
  m.def("iou", py::vectorize(iou_of<T>));
  m.def("intersection", py::vectorize(intersection_of<T>));
  m.def("area", py::vectorize(area_of<T>));
  m.def("to_xyxy", py::vectorize(corner_of<T>));
  m.def("rank_of", py::vectorize([](T x) { return rank_of(x); }));
  m.def("rank_of_positive", py::vectorize([](T x) { return rank_of_positive(x); }));
  m.def("exponential", py::vectorize([](T x) { return exponential<kFused>(x); }));
  m.def("exp_of_negative", py::vectorize([](T x) { return exp_of_negative<kFused>(x); }));
  m.def("log1p_of_fraction", py::vectorize([](T x) { return log1p_of_fraction<kFused>(x); }));
  m.def("logarithm", py::vectorize([](T x) { return logarithm(x); }));
  m.def("logistic", py::vectorize(logistic_part<T, kFused, false>));
  m.def("logistic_of_ordinary", py::vectorize(logistic_part<T, kFused, true>));
  m.def("focal", py::vectorize(focal_part<T, kFused>));
  m.def("arctangent", py::vectorize([](T x) { return arctangent(x); }));
  m.def("sigmoid", py::vectorize(sigmoid<T>));
  m.def("scaled_sigmoid", py::vectorize(scaled_sigmoid<T>));
  m.def("is_plain", py::vectorize(plain_of<T>));
  m.def("plain_iou", py::vectorize(plain_iou_of<T>));
  m.def("apart", py::vectorize(apart_of<T>));
  m.def("shape_iou", py::vectorize(shape_iou_of<T>));
  m.def("cell_at", py::vectorize(cell_index<T>));
  m.def("yolo_box", py::vectorize(yolo_corner<T>));
  m.def("yolo_grid_box", py::vectorize(yolo_grid_corner<T>));
  m.def("yolo_score", py::vectorize([](T confidence, T logit, int classes) {
          return classes == 0   ? yolo_score<YoloClasses::sigmoid>(confidence, logit)
                 : classes == 2 ? yolo_score<YoloClasses::logits>(confidence, logit)
                                : yolo_score<YoloClasses::linear>(confidence, logit);
        }));
  m.def("combined_parts", py::vectorize(combined_parts<T>));
  m.def("shape_iou", py::vectorize([](T w1, T h1, T w2, T h2) { return shape_iou(w1, h1, w1 * h1, w2, h2, w2 * h2); }));
}

}  // namespace

PYBIND11_MODULE(detection_math_module, m) {
  define<float, false>(m.def_submodule("f32"));
  define<float, true>(m.def_submodule("f32_fused"));
  define<double, false>(m.def_submodule("f64"));
  m.def("next_random", [](uint64_t state) {
    const uint64_t number = next_random(state);
    return py::make_tuple(state, number);
  });
  m.def("float_of_half", py::vectorize(float_of_half));
  m.def("float_of_bfloat16", py::vectorize(float_of_bfloat16));
}
