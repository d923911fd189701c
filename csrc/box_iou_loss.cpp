// generalized_box_iou_loss, distance_box_iou_loss, complete_box_iou_loss and their gradients.
#include <tuple>

#include "box_iou_kinds.h"
#include "box_iou_pairs.h"

namespace pydet {
namespace {

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

template <typename T>
void fill_losses(IouKind kind, const Tensor& boxes1, const Tensor& boxes2, Reduction reduction, double eps,
                 Tensor& out) {
  const int64_t n = boxes1.numel() / 4;
  const Tensor dense1 = as_contiguous(boxes1, kDtype<T>), dense2 = as_contiguous(boxes2, kDtype<T>);
  const Box<T>*a = as_boxes<T>(dense1), *b = as_boxes<T>(dense2);
  const PairRules<T> rules{loss_rules<T>(kind, eps), BoxFormat::xyxy, true};
  T* losses = out.mutable_data_ptr<T>();
  if (reduction == Reduction::none) {
    torch::stable::parallel_for(0, n, kPairsPerTask, [&](int64_t begin, int64_t end) {
      iou_of_pairs(kind, a + begin, b + begin, end - begin, rules, losses + begin);
    });
    return;
  }
  // A task is also what is summed in one go, so that no sum depends on the number of threads.
  std::vector<double> sums((n + kPairsPerTask - 1) / kPairsPerTask);
  torch::stable::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
    T part[kPairsPerTask];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kPairsPerTask, count = std::min(kPairsPerTask, n - first);
      iou_of_pairs(kind, a + first, b + first, count, rules, part);
      sums[task] = sum_of(part, count);
    }
  });
  const double total = sum_of(sums.data(), static_cast<int64_t>(sums.size()));
  *losses = static_cast<T>(reduction == Reduction::mean && n > 0 ? total / static_cast<double>(n) : total);
}

template <typename T>
void fill_gradients(IouKind kind, const Tensor& gradient, const Tensor& boxes1, const Tensor& boxes2,
                    Reduction reduction, double eps, Tensor& out1, Tensor& out2) {
  const int64_t n = boxes1.numel() / 4;
  const Tensor dense = as_contiguous(gradient, kDtype<T>);
  const Tensor dense1 = as_contiguous(boxes1, kDtype<T>), dense2 = as_contiguous(boxes2, kDtype<T>);
  const PairRules<T> rules{loss_rules<T>(kind, eps), BoxFormat::xyxy, true};
  const T scale = reduction == Reduction::mean ? T(1) / static_cast<T>(n) : T(1);
  iou_gradient_of_pairs(kind, as_boxes<T>(dense1), as_boxes<T>(dense2), n, rules, dense.const_data_ptr<T>(),
                        reduction == Reduction::none ? 1 : 0, scale, as_mutable_boxes<T>(out1),
                        as_mutable_boxes<T>(out2));
}

Tensor box_iou_loss_of(const char* op, IouKind kind,
                       const Tensor& boxes1,  // [..., 4]
                       const Tensor& boxes2,  // [..., 4]
                       const std::string& reduction, double eps) {
  const Reduction how = check_box_iou_loss(op, boxes1, boxes2, reduction);
  Tensor out = new_dense(boxes1, losses_shape(boxes1, how), wide_dtype(boxes1, boxes2));
  if (out.numel() == 0) return out;
  if (out.scalar_type() == ScalarType::Double) {
    fill_losses<double>(kind, boxes1, boxes2, how, eps, out);
  } else {
    fill_losses<float>(kind, boxes1, boxes2, how, eps, out);
  }
  return out;
}

using Operators = IouLossOperators<box_iou_loss_of>;

// Gradients of both boxes in the type of the arithmetic, float or double.
std::tuple<Tensor, Tensor> box_iou_loss_backward_cpu(const Tensor& gradient,  // [...], or [] where it is reduced
                                                     const Tensor& boxes1,    // [..., 4]
                                                     const Tensor& boxes2,    // [..., 4]
                                                     Text op, Text reduction, double eps) {
  const IouKind kind = kind_of(kIouLosses, op, "_box_iou_loss_backward");
  const Reduction how = check_box_iou_loss_backward(op.c_str(), gradient, boxes1, boxes2, reduction);
  const ScalarType type = wide_dtype(boxes1, boxes2);
  Tensor out1 = new_dense(boxes1, shape_vector(boxes1), type), out2 = new_dense(boxes2, shape_vector(boxes2), type);
  if (out1.numel() == 0) return {out1, out2};
  if (type == ScalarType::Double) {
    fill_gradients<double>(kind, gradient, boxes1, boxes2, how, eps, out1, out2);
  } else {
    fill_gradients<float>(kind, gradient, boxes1, boxes2, how, eps, out1, out2);
  }
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
  m.impl("generalized_box_iou_loss", TORCH_BOX(&Operators::generalized));
  m.impl("distance_box_iou_loss", TORCH_BOX(&Operators::distance));
  m.impl("complete_box_iou_loss", TORCH_BOX(&Operators::complete));
  m.impl("_box_iou_loss_backward", TORCH_BOX(&box_iou_loss_backward_cpu));
}

}  // namespace pydet
