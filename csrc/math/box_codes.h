// Regression codes of boxes.
#pragma once

#include "scalar.h"

namespace pydet {

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
