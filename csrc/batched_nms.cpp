#include "checks/nms.h"
#include "nms_cpu.h"

namespace pydet {
namespace {

// Class of each box as an integer that is equal exactly where the class is.
std::vector<int64_t> class_keys(const Tensor& idxs) {
  std::vector<int64_t> keys(idxs.size(0));
  if (is_integral(idxs.scalar_type())) {
    const Tensor dense = as_contiguous(idxs, ScalarType::Long);
    const int64_t* data = dense.const_data_ptr<int64_t>();
    std::copy(data, data + keys.size(), keys.begin());
    return keys;
  }
  const Tensor dense = as_contiguous(idxs, ScalarType::Double);
  const double* data = dense.const_data_ptr<double>();
  for (size_t i = 0; i < keys.size(); ++i) {
    PYDET_CHECK(data[i] == data[i], "batched_nms: idxs must not contain nan, got one at ", i);
    const double value = data[i] + 0.0;  // -0 is the class 0
    std::memcpy(&keys[i], &value, sizeof value);
  }
  return keys;
}

template <typename T>
Tensor batched_nms_as(const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold) {
  const RankedBoxes<T> ranked = rank_boxes<T>(boxes, scores);
  std::vector<uint8_t> keep(ranked.order.size());
  suppress_by_class(ranked.boxes, ranked.order, class_keys(idxs), iou_threshold, keep.data());
  return kept_indices(boxes, ranked.order, keep);
}

Tensor batched_nms_cpu(const Tensor& boxes,   // [N, 4] xyxy
                       const Tensor& scores,  // [N]
                       const Tensor& idxs,    // [N]
                       double iou_threshold) {
  check_batched_nms(boxes, scores, idxs, iou_threshold);
  return boxes.scalar_type() == ScalarType::Double ? batched_nms_as<double>(boxes, scores, idxs, iou_threshold)
                                                   : batched_nms_as<float>(boxes, scores, idxs, iou_threshold);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("batched_nms", TORCH_BOX(&batched_nms_cpu)); }

}  // namespace pydet
