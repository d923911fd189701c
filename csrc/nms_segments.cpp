#include "nms_cpu.h"

namespace pydet {
namespace {

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

}  // namespace

template <typename T>
void suppress_by_class(const Box<T>* boxes, const std::vector<uint32_t>& order, const std::vector<int64_t>& keys,
                       double threshold, uint8_t* keep) {
  const size_t n = order.size();
  if (n == 0) return;
  const Segments segments = segments_by_class(keys, order);
  std::vector<uint32_t> order_by_class(n);
  for (size_t i = 0; i < n; ++i) order_by_class[i] = order[segments.positions[i]];
  std::vector<uint8_t> keep_by_class(n);
  const int64_t classes = static_cast<int64_t>(segments.starts.size()) - 1;
  const int64_t grain = 2048 * classes / static_cast<int64_t>(n) + 1;  // classes in a task of about 2,048 boxes
  torch::stable::parallel_for(0, classes, grain, [&](int64_t begin, int64_t end) {
    NmsScratch<T> scratch;
    for (int64_t c = begin; c < end; ++c) {
      const int64_t start = segments.starts[c];
      suppress(boxes, order_by_class.data() + start, segments.starts[c + 1] - start, threshold, scratch,
               keep_by_class.data() + start);
    }
  });
  for (size_t i = 0; i < n; ++i) keep[segments.positions[i]] = keep_by_class[i];
}

template void suppress_by_class(const Box<float>*, const std::vector<uint32_t>&, const std::vector<int64_t>&, double,
                                uint8_t*);
template void suppress_by_class(const Box<double>*, const std::vector<uint32_t>&, const std::vector<int64_t>&, double,
                                uint8_t*);

}  // namespace pydet
