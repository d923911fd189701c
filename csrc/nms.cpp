#include "nms_cpu.h"

#include "checks/nms.h"
#include "nms_order.h"

#define PYDET_KERNELS "cpu/nms.h"
#include "cpu_levels.h"

namespace pydet {

template <typename T>
RankedBoxes<T> rank_boxes(const Tensor& boxes, const Tensor& scores) {
  const ScalarType score_type = wide_dtype(scores);
  const Tensor dense_scores = as_contiguous(scores, score_type);
  RankedBoxes<T> ranked{as_contiguous(boxes, kDtype<T>), nullptr, std::vector<uint32_t>(boxes.size(0))};
  ranked.boxes = reinterpret_cast<const Box<T>*>(ranked.boxes_memory.template const_data_ptr<T>());
  if (score_type == ScalarType::Double) {
    order_by_score(dense_scores.const_data_ptr<double>(), boxes.size(0), ranked.order.data());
  } else {
    order_by_score(dense_scores.const_data_ptr<float>(), boxes.size(0), ranked.order.data());
  }
  return ranked;
}

template <typename T>
void suppress(const Box<T>* boxes, const uint32_t* order, int64_t n, double threshold, NmsScratch<T>& scratch,
              uint8_t* keep) {
  bool ordinary = threshold >= 0;
  scratch.ranked.resize(n);
  for (int64_t i = 0; i < n; ++i) {
    const Box<T> box = boxes[order[i]];
    scratch.ranked[i] = box;
    ordinary &= is_ordinary(box, area(box));
  }
  const Box<T>* ranked = scratch.ranked.data();
  if (ordinary) {
    PYDET_CPU_CALL(nms_greedy, ranked, n, threshold, scratch, keep);
  } else {
    PYDET_CPU_CALL(nms_exhaustive, ranked, n, threshold, scratch, keep);
  }
}

Tensor kept_indices(const Tensor& like, const std::vector<uint32_t>& order, const std::vector<uint8_t>& keep) {
  int64_t count = 0;
  for (const uint8_t k : keep) count += k;
  Tensor out = new_dense(like, {count}, ScalarType::Long);
  int64_t* next = out.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i < order.size(); ++i) {
    if (keep[i]) *next++ = order[i];
  }
  return out;
}

template RankedBoxes<float> rank_boxes(const Tensor&, const Tensor&);
template RankedBoxes<double> rank_boxes(const Tensor&, const Tensor&);
template void suppress(const Box<float>*, const uint32_t*, int64_t, double, NmsScratch<float>&, uint8_t*);
template void suppress(const Box<double>*, const uint32_t*, int64_t, double, NmsScratch<double>&, uint8_t*);

namespace {

template <typename T>
Tensor nms_as(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  const RankedBoxes<T> ranked = rank_boxes<T>(boxes, scores);
  std::vector<uint8_t> keep(ranked.order.size());
  NmsScratch<T> scratch;
  suppress(ranked.boxes, ranked.order.data(), keep.size(), iou_threshold, scratch, keep.data());
  return kept_indices(boxes, ranked.order, keep);
}

Tensor nms_cpu(const Tensor& boxes,   // [N, 4] xyxy
               const Tensor& scores,  // [N]
               double iou_threshold) {
  check_nms("nms", boxes, scores, iou_threshold);
  return boxes.scalar_type() == ScalarType::Double ? nms_as<double>(boxes, scores, iou_threshold)
                                                   : nms_as<float>(boxes, scores, iou_threshold);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) { m.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("nms", TORCH_BOX(&nms_cpu)); }

}  // namespace pydet
