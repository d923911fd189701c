#include <vector>

#include "box_iou_kinds.h"
#include "box_iou_pairs.h"

#define PYDET_KERNELS "cpu/box_iou.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kPairsPerRowTask = 1 << 15;  // about 20 us of work

template <IouKind kind, typename T, typename Out>
void box_iou_fill(const Tensor& boxes1, const Tensor& boxes2, BoxFormat format, double eps, Tensor& out) {
  const int64_t n = boxes1.size(-2), m = boxes2.size(-2);
  const Tensor dense1 = as_contiguous(boxes1, kDtype<T>), dense2 = as_contiguous(boxes2, kDtype<T>);
  const Box<T>* rows = as_boxes<T>(dense1);
  const int64_t total = boxes2.numel() / 4;
  std::vector<T> columns(6 * total);
  PYDET_CPU_CALL(box_iou_columns<kind>, as_boxes<T>(dense2), total, format, columns.data());
  const IouRules<T> rules = pairwise_rules<T>(kind, eps);
  Out* out_data = out.mutable_data_ptr<Out>();
  const int64_t grain = kPairsPerRowTask / m + 1;
  torch::stable::parallel_for(0, boxes1.numel() / 4, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {  // a task may cross from one batch entry into the next
      const int64_t batch = begin / n;
      const int64_t stop = std::min(end, (batch + 1) * n);
      PYDET_CPU_CALL(box_iou_rows<kind>, rows + begin, stop - begin, format, columns.data() + batch * m, total, m,
                     rules, out_data + begin * m);
      begin = stop;
    }
  });
}

template <typename T, typename Out>
void box_iou_aligned_fill(IouKind kind, const Tensor& boxes1, const Tensor& boxes2, BoxFormat format, double eps,
                          Tensor& out) {
  const Tensor dense1 = as_contiguous(boxes1, kDtype<T>), dense2 = as_contiguous(boxes2, kDtype<T>);
  const Box<T>*a = as_boxes<T>(dense1), *b = as_boxes<T>(dense2);
  const PairRules<T> rules{pairwise_rules<T>(kind, eps), format, false};
  Out* out_data = out.mutable_data_ptr<Out>();
  torch::stable::parallel_for(0, out.numel(), kPairsPerTask, [&](int64_t begin, int64_t end) {
    iou_of_pairs(kind, a + begin, b + begin, end - begin, rules, out_data + begin);
  });
}

Tensor box_iou_of(const char* op, IouKind kind,
                  const Tensor& boxes1,  // [..., N, 4]
                  const Tensor& boxes2,  // [..., M, 4], or as boxes1 where they are aligned
                  const std::string& fmt, double eps, bool aligned) {
  const BoxFormat format = check_box_iou(op, boxes1, boxes2, fmt, aligned);
  Tensor out = new_dense(boxes1, pairs_shape(boxes1, boxes2, aligned), wide_dtype(boxes1, boxes2));
  if (out.numel() == 0) return out;
  dispatch_iou(boxes1, boxes2, [&](auto compute, auto result) {
    using T = decltype(compute);
    using Out = decltype(result);
    if (aligned) return box_iou_aligned_fill<T, Out>(kind, boxes1, boxes2, format, eps, out);
    dispatch_kind(kind, [&](auto constant) {
      box_iou_fill<decltype(constant)::value, T, Out>(boxes1, boxes2, format, eps, out);
    });
  });
  return out;
}

using Operators = IouOperators<box_iou_of>;

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("box_iou(Tensor boxes1, Tensor boxes2, str fmt='xyxy', bool aligned=False) -> Tensor");
  m.def("generalized_box_iou(Tensor boxes1, Tensor boxes2, bool aligned=False) -> Tensor");
  m.def("distance_box_iou(Tensor boxes1, Tensor boxes2, float eps=1e-7, bool aligned=False) -> Tensor");
  m.def("complete_box_iou(Tensor boxes1, Tensor boxes2, float eps=1e-7, bool aligned=False) -> Tensor");
  m.def("box_iof(Tensor boxes1, Tensor boxes2, str fmt='xyxy', bool aligned=False) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&Operators::box_iou));
  m.impl("generalized_box_iou", TORCH_BOX(&Operators::generalized_box_iou));
  m.impl("distance_box_iou", TORCH_BOX(&Operators::distance_box_iou));
  m.impl("complete_box_iou", TORCH_BOX(&Operators::complete_box_iou));
  m.impl("box_iof", TORCH_BOX(&Operators::box_iof));
}

}  // namespace pydet
