// What the operators of the IoU family and its losses share: kinds, their rules, shapes, and reading boxes.
#pragma once

#include <limits>
#include <type_traits>
#include <vector>

#include "checks/box_iou.h"
#include "math/box_iou.h"

namespace pydet {

// body(std::integral_constant<IouKind, ...>)
template <typename Body>
void dispatch_kind(IouKind kind, const Body& body) {
  switch (kind) {
    case IouKind::iou:
      return body(std::integral_constant<IouKind, IouKind::iou>());
    case IouKind::generalized:
      return body(std::integral_constant<IouKind, IouKind::generalized>());
    case IouKind::distance:
      return body(std::integral_constant<IouKind, IouKind::distance>());
    case IouKind::complete:
      return body(std::integral_constant<IouKind, IouKind::complete>());
    case IouKind::foreground:
      return body(std::integral_constant<IouKind, IouKind::foreground>());
  }
}

// The same for the kinds that have a loss.
template <typename Body>
void dispatch_kind_of_loss(IouKind kind, const Body& body) {
  if (kind == IouKind::generalized) return body(std::integral_constant<IouKind, IouKind::generalized>());
  if (kind == IouKind::distance) return body(std::integral_constant<IouKind, IouKind::distance>());
  return body(std::integral_constant<IouKind, IouKind::complete>());
}

struct NamedKind {
  const char* op;
  IouKind kind;
};

constexpr NamedKind kIouOperators[] = {{"box_iou", IouKind::iou},
                                       {"generalized_box_iou", IouKind::generalized},
                                       {"distance_box_iou", IouKind::distance},
                                       {"complete_box_iou", IouKind::complete},
                                       {"box_iof", IouKind::foreground}};
constexpr NamedKind kIouLosses[] = {{"generalized_box_iou_loss", IouKind::generalized},
                                    {"distance_box_iou_loss", IouKind::distance},
                                    {"complete_box_iou_loss", IouKind::complete}};

// The kind of an operator whose gradient is wanted of `backward`.
template <size_t n>
IouKind kind_of(const NamedKind (&family)[n], const std::string& op, const char* backward) {
  for (const NamedKind& member : family) {
    if (op == member.op) return member.kind;
  }
  fail(backward, ": op must be one of the family, got '", op, "'");
}

// The operators of the family on one device, from the function behind them.
template <Tensor (*function)(const char* op, IouKind kind, const Tensor& boxes1, const Tensor& boxes2,
                             const std::string& fmt, double eps, bool aligned)>
struct IouOperators {
  static Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2, Text fmt, bool aligned) {
    return function("box_iou", IouKind::iou, boxes1, boxes2, fmt, 0, aligned);
  }
  static Tensor generalized_box_iou(const Tensor& boxes1, const Tensor& boxes2, bool aligned) {
    return function("generalized_box_iou", IouKind::generalized, boxes1, boxes2, "xyxy", 0, aligned);
  }
  static Tensor distance_box_iou(const Tensor& boxes1, const Tensor& boxes2, double eps, bool aligned) {
    return function("distance_box_iou", IouKind::distance, boxes1, boxes2, "xyxy", eps, aligned);
  }
  static Tensor complete_box_iou(const Tensor& boxes1, const Tensor& boxes2, double eps, bool aligned) {
    return function("complete_box_iou", IouKind::complete, boxes1, boxes2, "xyxy", eps, aligned);
  }
  static Tensor box_iof(const Tensor& boxes1, const Tensor& boxes2, Text fmt, bool aligned) {
    return function("box_iof", IouKind::foreground, boxes1, boxes2, fmt, 0, aligned);
  }
};

// The same for its losses.
template <Tensor (*function)(const char* op, IouKind kind, const Tensor& boxes1, const Tensor& boxes2,
                             const std::string& reduction, double eps)>
struct IouLossOperators {
  static Tensor generalized(const Tensor& boxes1, const Tensor& boxes2, Text reduction, double eps) {
    return function("generalized_box_iou_loss", IouKind::generalized, boxes1, boxes2, reduction, eps);
  }
  static Tensor distance(const Tensor& boxes1, const Tensor& boxes2, Text reduction, double eps) {
    return function("distance_box_iou_loss", IouKind::distance, boxes1, boxes2, reduction, eps);
  }
  static Tensor complete(const Tensor& boxes1, const Tensor& boxes2, Text reduction, double eps) {
    return function("complete_box_iou_loss", IouKind::complete, boxes1, boxes2, reduction, eps);
  }
};

// body(a zero of the arithmetic, a zero of the result). The result of integers is float32, their arithmetic is not.
template <typename Body>
void dispatch_iou(const Tensor& boxes1, const Tensor& boxes2, const Body& body) {
  if (wide_dtype(boxes1, boxes2) == ScalarType::Double) return body(double(), double());
  if (computes_in_double(boxes1, boxes2)) return body(double(), float());
  body(float(), float());
}

template <typename T>
IouRules<T> pairwise_rules(IouKind kind, double eps) {
  return {T(0), kind == IouKind::generalized ? T(0) : static_cast<T>(eps), static_cast<T>(eps), T(0)};
}

// complete_box_iou_loss of torchvision leaves all but one eps at 1e-7; so does this.
template <typename T>
IouRules<T> loss_rules(IouKind kind, double eps) {
  const T first = static_cast<T>(kind == IouKind::complete ? 1e-7 : eps);
  return {first, first, static_cast<T>(eps), -std::numeric_limits<T>::infinity()};
}

// Boxes of any dtype and format as corners, areas and angles.
template <IouKind kind, typename T>
std::vector<IouBox<T>> load_iou_boxes(const Tensor& tensor, BoxFormat format) {
  const Tensor dense = as_contiguous(tensor, kDtype<T>);
  const T* data = dense.const_data_ptr<T>();
  std::vector<IouBox<T>> boxes(dense.numel() / 4);
  for (size_t i = 0; i < boxes.size(); ++i, data += 4) {
    boxes[i] = to_iou_box<kind>(to_xyxy(data[0], data[1], data[2], data[3], format));
  }
  return boxes;
}

// Six runs over all boxes: x1, y1, x2, y2, area, angle.
template <typename T>
std::vector<T> to_columns(const std::vector<IouBox<T>>& boxes) {
  const size_t n = boxes.size();
  std::vector<T> columns(6 * n);
  for (size_t i = 0; i < n; ++i) {
    columns[i] = boxes[i].box.x1;
    columns[n + i] = boxes[i].box.y1;
    columns[2 * n + i] = boxes[i].box.x2;
    columns[3 * n + i] = boxes[i].box.y2;
    columns[4 * n + i] = boxes[i].area;
    columns[5 * n + i] = boxes[i].angle;
  }
  return columns;
}

}  // namespace pydet
