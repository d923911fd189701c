#include "nms_cpu.h"
#include "op_checks.h"

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

// Positions of the order class by class, best first inside each: segment s is [starts[s], starts[s + 1]).
struct Segments {
  std::vector<uint32_t> positions;
  std::vector<int64_t> starts;
};

Segments segments_by_class(const std::vector<int64_t>& keys, const std::vector<uint32_t>& order) {
  const size_t n = order.size();
  Segments segments{std::vector<uint32_t>(n), {}};
  const auto [low, high] = std::minmax_element(keys.begin(), keys.end());
  const uint64_t range = static_cast<uint64_t>(*high) - static_cast<uint64_t>(*low);  // wraps rightly at any distance
  if (range < 4 * n + 1024) {
    std::vector<int64_t> next(range + 2);
    for (const int64_t key : keys) ++next[key - *low + 1];
    for (size_t c = 1; c < next.size(); ++c) next[c] += next[c - 1];
    segments.starts.reserve(n);
    for (size_t c = 0; c + 1 < next.size(); ++c) {
      if (next[c] != next[c + 1]) segments.starts.push_back(next[c]);
    }
    for (size_t i = 0; i < n; ++i) segments.positions[next[keys[order[i]] - *low]++] = static_cast<uint32_t>(i);
  } else {
    for (size_t i = 0; i < n; ++i) segments.positions[i] = static_cast<uint32_t>(i);
    std::stable_sort(segments.positions.begin(), segments.positions.end(),
                     [&](uint32_t a, uint32_t b) { return keys[order[a]] < keys[order[b]]; });
    for (size_t i = 0; i < n; ++i) {
      if (i == 0 || keys[order[segments.positions[i]]] != keys[order[segments.positions[i - 1]]]) {
        segments.starts.push_back(static_cast<int64_t>(i));
      }
    }
  }
  segments.starts.push_back(static_cast<int64_t>(n));
  return segments;
}

template <typename T>
Tensor batched_nms_as(const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold) {
  const RankedBoxes<T> ranked = rank_boxes<T>(boxes, scores);
  const size_t n = ranked.order.size();
  std::vector<uint8_t> keep(n);
  if (n != 0) {
    const Segments segments = segments_by_class(class_keys(idxs), ranked.order);
    std::vector<uint32_t> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = ranked.order[segments.positions[i]];
    std::vector<uint8_t> keep_by_class(n);
    const int64_t classes = static_cast<int64_t>(segments.starts.size()) - 1;
    const int64_t grain = 2048 * classes / static_cast<int64_t>(n) + 1;  // classes in a task of about 2,048 boxes
    torch::stable::parallel_for(0, classes, grain, [&](int64_t begin, int64_t end) {
      NmsScratch<T> scratch;
      for (int64_t c = begin; c < end; ++c) {
        const int64_t start = segments.starts[c];
        suppress(ranked.boxes, order.data() + start, segments.starts[c + 1] - start, iou_threshold, scratch,
                 keep_by_class.data() + start);
      }
    });
    for (size_t i = 0; i < n; ++i) keep[segments.positions[i]] = keep_by_class[i];
  }
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
