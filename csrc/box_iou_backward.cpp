// The gradients of box_iou, generalized_box_iou, distance_box_iou, complete_box_iou and box_iof.
#include <tuple>

#include "box_iou_kinds.h"
#include "box_iou_pairs.h"

#define PYDET_KERNELS "cpu/box_iou_backward.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

// Rows are split by the shape alone, never by the number of threads, so that sums are the same at any number. The sums
// of the columns take 6 / 16 of the memory of the gradient matrix at most.
int64_t rows_per_task(int64_t n, int64_t m) {
  const int64_t tasks = std::min<int64_t>({(n * m) >> 15, n / 16, 16});
  return tasks <= 1 ? n : (n + tasks - 1) / tasks;
}

template <IouKind kind, typename T>
void fill_gradients(const Tensor& gradient, const Tensor& boxes1, const Tensor& boxes2, BoxFormat format, double eps,
                    Tensor& out1, Tensor& out2) {
  const int64_t n = boxes1.size(-2), m = boxes2.size(-2);
  const std::vector<IouBox<T>> rows = load_iou_boxes<kind, T>(boxes1, format);
  const std::vector<IouBox<T>> column_boxes = load_iou_boxes<kind, T>(boxes2, format);
  const std::vector<T> columns = to_columns(column_boxes);
  const int64_t total = static_cast<int64_t>(column_boxes.size());
  const int64_t batch = total / m;
  const IouRules<T> rules = pairwise_rules<T>(kind, eps);
  const Tensor dense = as_contiguous(gradient, kDtype<T>);
  const T* gradients = dense.const_data_ptr<T>();
  Box<T>*rows_out = as_mutable_boxes<T>(out1), *columns_out = as_mutable_boxes<T>(out2);

  const int64_t step = rows_per_task(n, m), tasks = (n + step - 1) / step;
  std::vector<T> row_sums(rows.size() * 6), sums(batch * tasks * 6 * m);
  torch::stable::parallel_for(0, batch * tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / tasks, first = task % tasks * step;
      const int64_t count = std::min(step, n - first), row = image * n + first;
      PYDET_CPU_CALL(box_iou_backward_rows<kind>, rows.data() + row, count, columns.data() + image * m, total, m, rules,
                     gradients + row * m, row_sums.data() + row * 6, sums.data() + task * 6 * m);
    }
  });
  for (size_t i = 0; i < rows.size(); ++i) {
    const T* s = row_sums.data() + 6 * i;
    rows_out[i] = corner_gradient<kind>(rows[i].box, Box<T>{s[0], s[1], s[2], s[3]}, s[4], s[5]);
  }
  for (int64_t image = 0; image < batch; ++image) {
    T* first = sums.data() + image * tasks * 6 * m;
    for (int64_t task = 1; task < tasks; ++task) {
      for (int64_t i = 0; i < 6 * m; ++i) first[i] += first[task * 6 * m + i];
    }
    for (int64_t j = 0; j < m; ++j) {
      const Box<T> corners{first[j], first[m + j], first[2 * m + j], first[3 * m + j]};
      columns_out[image * m + j] =
          corner_gradient<kind>(column_boxes[image * m + j].box, corners, first[4 * m + j], first[5 * m + j]);
    }
  }
  if (format == BoxFormat::xyxy) return;
  for (size_t i = 0; i < rows.size(); ++i) rows_out[i] = from_xyxy_gradient(rows_out[i], format);
  for (int64_t i = 0; i < total; ++i) columns_out[i] = from_xyxy_gradient(columns_out[i], format);
}

template <typename T>
void fill_aligned_gradients(IouKind kind, const Tensor& gradient, const Tensor& boxes1, const Tensor& boxes2,
                            BoxFormat format, double eps, Tensor& out1, Tensor& out2) {
  const Tensor dense = as_contiguous(gradient, kDtype<T>);
  const Tensor dense1 = as_contiguous(boxes1, kDtype<T>), dense2 = as_contiguous(boxes2, kDtype<T>);
  const PairRules<T> rules{pairwise_rules<T>(kind, eps), format, false};
  iou_gradient_of_pairs(kind, as_boxes<T>(dense1), as_boxes<T>(dense2), gradient.numel(), rules,
                        dense.const_data_ptr<T>(), 1, T(1), as_mutable_boxes<T>(out1), as_mutable_boxes<T>(out2));
}

// Gradients of both boxes in the type of the arithmetic, float or double.
std::tuple<Tensor, Tensor> box_iou_backward_cpu(const Tensor& gradient,  // [..., N, M], or [..., N] where aligned
                                                const Tensor& boxes1,    // [..., N, 4]
                                                const Tensor& boxes2,    // [..., M, 4]
                                                Text op, Text fmt, double eps, bool aligned) {
  const IouKind kind = kind_of(kIouOperators, op, "_box_iou_backward");
  const BoxFormat format = check_box_iou_backward(op.c_str(), gradient, boxes1, boxes2, fmt, aligned);
  const bool in_double = computes_in_double(boxes1, boxes2);
  const ScalarType type = in_double ? ScalarType::Double : ScalarType::Float;
  Tensor out1 = new_dense(boxes1, shape_vector(boxes1), type), out2 = new_dense(boxes2, shape_vector(boxes2), type);
  if (gradient.numel() == 0) {  // no pairs: boxes there may still be
    torch::stable::zero_(out1);
    torch::stable::zero_(out2);
    return {out1, out2};
  }
  const auto fill = [&](auto compute) {
    using T = decltype(compute);
    if (aligned) return fill_aligned_gradients<T>(kind, gradient, boxes1, boxes2, format, eps, out1, out2);
    dispatch_kind(kind, [&](auto constant) {
      fill_gradients<decltype(constant)::value, T>(gradient, boxes1, boxes2, format, eps, out1, out2);
    });
  };
  if (in_double) {
    fill(double());
  } else {
    fill(float());
  }
  return {out1, out2};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "_box_iou_backward(Tensor gradient, Tensor boxes1, Tensor boxes2, str op, str fmt, float eps, bool aligned) "
      "-> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("_box_iou_backward", TORCH_BOX(&box_iou_backward_cpu)); }

}  // namespace pydet
