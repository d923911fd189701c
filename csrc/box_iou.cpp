#include <vector>

#include "box_iou_kinds.h"

#define PYDET_KERNELS "cpu/box_iou.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kPairsPerTask = 1 << 15;  // about 20 us of work

template <IouKind kind, typename T, typename Out>
void box_iou_fill(const Tensor& boxes1, const Tensor& boxes2, BoxFormat format, double eps, Tensor& out) {
  const int64_t n = boxes1.size(-2), m = boxes2.size(-2);
  const std::vector<IouBox<T>> rows = load_iou_boxes<kind, T>(boxes1, format);
  const std::vector<T> columns = to_columns(load_iou_boxes<kind, T>(boxes2, format));
  const int64_t total = static_cast<int64_t>(columns.size()) / 6;
  const IouRules<T> rules = pairwise_rules<T>(kind, eps);
  Out* out_data = out.mutable_data_ptr<Out>();
  const int64_t grain = kPairsPerTask / m + 1;
  torch::stable::parallel_for(0, static_cast<int64_t>(rows.size()), grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {  // a task may cross from one batch entry into the next
      const int64_t batch = begin / n;
      const int64_t stop = std::min(end, (batch + 1) * n);
      PYDET_CPU_CALL(box_iou_rows<kind>, rows.data() + begin, stop - begin, columns.data() + batch * m, total, m, rules,
                     out_data + begin * m);
      begin = stop;
    }
  });
}

Tensor box_iou_of(IouKind kind,
                  const Tensor& boxes1,  // [..., N, 4]
                  const Tensor& boxes2,  // [..., M, 4]
                  BoxFormat format, double eps) {
  const bool out_double = either_is_double(boxes1, boxes2);
  std::vector<int64_t> shape(boxes1.sizes().begin(), boxes1.sizes().end());
  shape.back() = boxes2.size(-2);
  Tensor out = new_dense(boxes1, shape, out_double ? ScalarType::Double : ScalarType::Float);
  if (out.numel() == 0) return out;
  dispatch_kind(kind, [&](auto constant) {
    constexpr IouKind k = decltype(constant)::value;
    if (out_double) {
      box_iou_fill<k, double, double>(boxes1, boxes2, format, eps, out);
    } else if (computes_in_double(boxes1) || computes_in_double(boxes2)) {
      box_iou_fill<k, double, float>(boxes1, boxes2, format, eps, out);
    } else {
      box_iou_fill<k, float, float>(boxes1, boxes2, format, eps, out);
    }
  });
  return out;
}

Tensor box_iou_cpu(const Tensor& boxes1, const Tensor& boxes2, std::string fmt) {
  return box_iou_of(IouKind::iou, boxes1, boxes2, check_box_iou(boxes1, boxes2, fmt), 0);
}

Tensor generalized_box_iou_cpu(const Tensor& boxes1, const Tensor& boxes2) {
  check_box_pairs("generalized_box_iou", boxes1, boxes2);
  return box_iou_of(IouKind::generalized, boxes1, boxes2, BoxFormat::xyxy, 0);
}

Tensor distance_box_iou_cpu(const Tensor& boxes1, const Tensor& boxes2, double eps) {
  check_box_pairs("distance_box_iou", boxes1, boxes2);
  return box_iou_of(IouKind::distance, boxes1, boxes2, BoxFormat::xyxy, eps);
}

Tensor complete_box_iou_cpu(const Tensor& boxes1, const Tensor& boxes2, double eps) {
  check_box_pairs("complete_box_iou", boxes1, boxes2);
  return box_iou_of(IouKind::complete, boxes1, boxes2, BoxFormat::xyxy, eps);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("box_iou(Tensor boxes1, Tensor boxes2, str fmt='xyxy') -> Tensor");
  m.def("generalized_box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  m.def("distance_box_iou(Tensor boxes1, Tensor boxes2, float eps=1e-7) -> Tensor");
  m.def("complete_box_iou(Tensor boxes1, Tensor boxes2, float eps=1e-7) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&box_iou_cpu));
  m.impl("generalized_box_iou", TORCH_BOX(&generalized_box_iou_cpu));
  m.impl("distance_box_iou", TORCH_BOX(&distance_box_iou_cpu));
  m.impl("complete_box_iou", TORCH_BOX(&complete_box_iou_cpu));
}

}  // namespace pydet
