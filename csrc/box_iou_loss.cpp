// generalized_box_iou_loss, distance_box_iou_loss, complete_box_iou_loss and their gradients.
#include <tuple>

#include "box_iou_kinds.h"

#define PYDET_KERNELS "cpu/box_iou_loss.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kPairsPerTask = 1 << 12;  // also what is summed in one go, so that no sum depends on the threads

template <typename T>
const Box<T>* as_boxes(const Tensor& dense) {
  return reinterpret_cast<const Box<T>*>(dense.const_data_ptr<T>());
}

// In parts that the compiler can add side by side.
template <typename T>
double sum_of(const T* values, int64_t n) {
  double parts[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t k = 0; k < 8; ++k) parts[k] += static_cast<double>(values[i + k]);
  }
  for (; i < n; ++i) parts[0] += static_cast<double>(values[i]);
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

template <IouKind kind, typename T>
void fill_losses(const Tensor& boxes1, const Tensor& boxes2, const std::string& reduction, double eps, Tensor& out) {
  const int64_t n = boxes1.numel() / 4;
  const ScalarType type = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
  const Tensor dense1 = as_contiguous(boxes1, type), dense2 = as_contiguous(boxes2, type);
  const Box<T>*a = as_boxes<T>(dense1), *b = as_boxes<T>(dense2);
  const IouRules<T> rules = loss_rules<T>(kind, eps);
  T* losses = out.mutable_data_ptr<T>();
  if (reduction == "none") {
    torch::stable::parallel_for(0, n, kPairsPerTask, [&](int64_t begin, int64_t end) {
      PYDET_CPU_CALL(box_iou_loss_pairs<kind>, a + begin, b + begin, end - begin, rules, losses + begin);
    });
    return;
  }
  std::vector<double> sums((n + kPairsPerTask - 1) / kPairsPerTask);
  torch::stable::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
    T part[kPairsPerTask];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kPairsPerTask, count = std::min(kPairsPerTask, n - first);
      PYDET_CPU_CALL(box_iou_loss_pairs<kind>, a + first, b + first, count, rules, part);
      sums[task] = sum_of(part, count);
    }
  });
  const double total = sum_of(sums.data(), static_cast<int64_t>(sums.size()));
  *losses = static_cast<T>(reduction == "mean" && n > 0 ? total / static_cast<double>(n) : total);
}

template <IouKind kind, typename T>
void fill_gradients(const Tensor& gradient, const Tensor& boxes1, const Tensor& boxes2, const std::string& reduction,
                    double eps, Tensor& out1, Tensor& out2) {
  const int64_t n = boxes1.numel() / 4;
  const ScalarType type = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
  const Tensor dense = as_contiguous(gradient, type);
  const Tensor dense1 = as_contiguous(boxes1, type), dense2 = as_contiguous(boxes2, type);
  const Box<T>*a = as_boxes<T>(dense1), *b = as_boxes<T>(dense2);
  const T* gradients = dense.const_data_ptr<T>();
  const IouRules<T> rules = loss_rules<T>(kind, eps);
  const int64_t stride = reduction == "none" ? 1 : 0;
  const T scale = reduction == "mean" ? T(1) / static_cast<T>(n) : T(1);
  Box<T>* out_a = reinterpret_cast<Box<T>*>(out1.mutable_data_ptr<T>());
  Box<T>* out_b = reinterpret_cast<Box<T>*>(out2.mutable_data_ptr<T>());
  torch::stable::parallel_for(0, n, kPairsPerTask, [&](int64_t begin, int64_t end) {
    PYDET_CPU_CALL(box_iou_loss_backward_pairs<kind>, a + begin, b + begin, end - begin, rules,
                   gradients + begin * stride, stride, scale, out_a + begin, out_b + begin);
  });
}

IouKind kind_of(const std::string& op) {
  if (op == "generalized_box_iou_loss") return IouKind::generalized;
  if (op == "distance_box_iou_loss") return IouKind::distance;
  PYDET_CHECK(op == "complete_box_iou_loss", "_box_iou_loss_backward: op must be one of the family, got '", op, "'");
  return IouKind::complete;
}

template <IouKind kind>
Tensor box_iou_loss_of(const char* op, const Tensor& boxes1, const Tensor& boxes2, const std::string& reduction,
                       double eps) {
  check_box_iou_loss(op, boxes1, boxes2, reduction);
  std::vector<int64_t> shape;
  if (reduction == "none") shape.assign(boxes1.sizes().begin(), boxes1.sizes().end() - 1);
  const bool in_double = either_is_double(boxes1, boxes2);
  Tensor out = new_dense(boxes1, shape, in_double ? ScalarType::Double : ScalarType::Float);
  if (out.numel() == 0) return out;
  if (in_double) {
    fill_losses<kind, double>(boxes1, boxes2, reduction, eps, out);
  } else {
    fill_losses<kind, float>(boxes1, boxes2, reduction, eps, out);
  }
  return out;
}

Tensor generalized_box_iou_loss_cpu(const Tensor& boxes1,  // [..., 4]
                                    const Tensor& boxes2,  // [..., 4]
                                    std::string reduction, double eps) {
  return box_iou_loss_of<IouKind::generalized>("generalized_box_iou_loss", boxes1, boxes2, reduction, eps);
}

Tensor distance_box_iou_loss_cpu(const Tensor& boxes1,  // [..., 4]
                                 const Tensor& boxes2,  // [..., 4]
                                 std::string reduction, double eps) {
  return box_iou_loss_of<IouKind::distance>("distance_box_iou_loss", boxes1, boxes2, reduction, eps);
}

Tensor complete_box_iou_loss_cpu(const Tensor& boxes1,  // [..., 4]
                                 const Tensor& boxes2,  // [..., 4]
                                 std::string reduction, double eps) {
  return box_iou_loss_of<IouKind::complete>("complete_box_iou_loss", boxes1, boxes2, reduction, eps);
}

// Gradients of both boxes in the type of the arithmetic, float or double.
std::tuple<Tensor, Tensor> box_iou_loss_backward_cpu(const Tensor& gradient,  // [...], or [] where it is reduced
                                                     const Tensor& boxes1,    // [..., 4]
                                                     const Tensor& boxes2,    // [..., 4]
                                                     std::string op, std::string reduction, double eps) {
  const IouKind kind = kind_of(op);
  check_box_iou_loss(op.c_str(), boxes1, boxes2, reduction);
  const int64_t wanted = reduction == "none" ? boxes1.numel() / 4 : 1;
  PYDET_CHECK(gradient.numel() == wanted, op, ": the gradient must have ", wanted, " values, got ", shape_of(gradient));
  const std::vector<int64_t> shape(boxes1.sizes().begin(), boxes1.sizes().end());
  const bool in_double = either_is_double(boxes1, boxes2);
  const ScalarType type = in_double ? ScalarType::Double : ScalarType::Float;
  Tensor out1 = new_dense(boxes1, shape, type), out2 = new_dense(boxes2, shape, type);
  if (out1.numel() == 0) return {out1, out2};
  dispatch_kind(kind, [&](auto constant) {
    constexpr IouKind k = decltype(constant)::value;
    if (in_double) {
      fill_gradients<k, double>(gradient, boxes1, boxes2, reduction, eps, out1, out2);
    } else {
      fill_gradients<k, float>(gradient, boxes1, boxes2, reduction, eps, out1, out2);
    }
  });
  return {out1, out2};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("generalized_box_iou_loss(Tensor boxes1, Tensor boxes2, str reduction='none', float eps=1e-7) -> Tensor");
  m.def("distance_box_iou_loss(Tensor boxes1, Tensor boxes2, str reduction='none', float eps=1e-7) -> Tensor");
  m.def("complete_box_iou_loss(Tensor boxes1, Tensor boxes2, str reduction='none', float eps=1e-7) -> Tensor");
  m.def(
      "_box_iou_loss_backward(Tensor gradient, Tensor boxes1, Tensor boxes2, str op, str reduction, float eps)"
      " -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("generalized_box_iou_loss", TORCH_BOX(&generalized_box_iou_loss_cpu));
  m.impl("distance_box_iou_loss", TORCH_BOX(&distance_box_iou_loss_cpu));
  m.impl("complete_box_iou_loss", TORCH_BOX(&complete_box_iou_loss_cpu));
  m.impl("_box_iou_loss_backward", TORCH_BOX(&box_iou_loss_backward_cpu));
}

}  // namespace pydet
