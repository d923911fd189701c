#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "checks/anchor_kmeans.h"
#include "math/anchor_kmeans.h"

namespace pydet {
namespace {

constexpr int64_t kShapeBlock = 256;  // boxes at a time: their running best stays in the L1 cache
constexpr int64_t kPairsPerTask = 1 << 14;  // about 20 us of work

struct Shape {
  double width, height;
};

struct Shapes {
  const double *width, *height;
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/anchor_kmeans.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

// The boxes, scaled by a power of two so that the largest size is in [1/2, 1).
struct KMeansData {
  std::vector<double> width, height;
  int exponent;
  double unit;

  int64_t size() const { return static_cast<int64_t>(width.size()); }
  Shape operator[](int64_t i) const { return {width[i], height[i]}; }
  int64_t fixed(double x) const { return in_units(x, unit); }
};

KMeansData load_shapes(const Tensor& wh) {
  const Tensor dense = as_contiguous(wh, ScalarType::Double);
  const double* data = dense.const_data_ptr<double>();
  const int64_t n = wh.size(0);
  for (int64_t i = 0; i < 2 * n; i += 2) {
    PYDET_CHECK(data[i] > 0 && data[i + 1] > 0 && std::isfinite(data[i]) && std::isfinite(data[i + 1]),
                "anchor_kmeans: wh must be positive and finite, got (", data[i], ", ", data[i + 1], ") at row ", i / 2);
  }
  const double largest = *std::max_element(data, data + 2 * n);
  for (int64_t i = 0; i < 2 * n; i += 2) {
    PYDET_CHECK(comparable(std::min(data[i], data[i + 1]), largest),
                "anchor_kmeans: wh must not differ by more than a factor of 2^30, got (", data[i], ", ", data[i + 1],
                ") at row ", i / 2, " and ", largest);
  }
  int exponent = 0;
  std::frexp(largest, &exponent);
  KMeansData boxes{std::vector<double>(n), std::vector<double>(n), exponent, unit_of_sum(n)};
  for (int64_t i = 0; i < n; ++i) {
    boxes.width[i] = std::ldexp(data[2 * i], -exponent);
    boxes.height[i] = std::ldexp(data[2 * i + 1], -exponent);
  }
  return boxes;
}

template <typename Visit>
void for_blocks_of_boxes(int64_t n, int64_t centres, const Visit& visit) {
  const int64_t blocks = (n + kShapeBlock - 1) / kShapeBlock;
  torch::stable::parallel_for(0, blocks, kPairsPerTask / (kShapeBlock * centres) + 1, visit);
}

// What an assignment of all boxes to their nearest centres gives.
struct Clusters {
  std::vector<double> iou;     // [N] with the nearest centre
  std::vector<int64_t> label;  // [N] that centre
  int64_t total_iou = 0;
  bool changed = false;  // a label
};

void assign(const KMeansData& boxes, const std::vector<Shape>& centres, Clusters& clusters) {
  const int64_t n = boxes.size();
  const Shapes shapes{boxes.width.data(), boxes.height.data()};
  std::atomic<int64_t> total{0};
  std::atomic<bool> changed{false};
  for_blocks_of_boxes(n, static_cast<int64_t>(centres.size()), [&](int64_t begin, int64_t end) {
    int64_t part = 0, label[kShapeBlock];
    bool part_changed = false;
    for (int64_t first = begin * kShapeBlock; first < std::min(end * kShapeBlock, n); first += kShapeBlock) {
      const int64_t count = std::min(kShapeBlock, n - first);
      double* iou = clusters.iou.data() + first;
      PYDET_CPU_CALL(nearest_centres, shapes, first, count, centres, iou, label);
      for (int64_t i = 0; i < count; ++i) part += boxes.fixed(iou[i]);
      part_changed |= !std::equal(label, label + count, clusters.label.begin() + first);
      std::copy_n(label, count, clusters.label.begin() + first);
    }
    total += part;
    if (part_changed) changed = true;
  });
  clusters.total_iou = total;
  clusters.changed = changed;
}

// The sum of all distances after one more centre. Where `nearest` is to be kept, it becomes that of the IoUs after it.
int64_t add_centre(const KMeansData& boxes, Shape centre, std::vector<double>& nearest, bool keep) {
  const Shapes shapes{boxes.width.data(), boxes.height.data()};
  std::atomic<int64_t> total{0};
  for_blocks_of_boxes(boxes.size(), 1, [&](int64_t begin, int64_t end) {
    int64_t part = 0;
    for (int64_t first = begin * kShapeBlock; first < std::min(end * kShapeBlock, boxes.size()); first += kShapeBlock) {
      const int64_t count = std::min(kShapeBlock, boxes.size() - first);
      double after[kShapeBlock];
      PYDET_CPU_CALL(nearer_centre, shapes, first, count, centre, nearest.data() + first, after);
      for (int64_t i = 0; i < count; ++i) part += boxes.fixed(1.0 - after[i]);
      if (keep) std::copy_n(after, count, nearest.begin() + first);
    }
    total += part;
  });
  return total;
}

// k-means++ (Arthur and Vassilvitskii 2007): each next centre is a box drawn in proportion to its distance 1 - IoU from
// the nearest one so far, the quantity that k-means lowers; the best of a few that are drawn, as they advise.
std::vector<Shape> first_centres(const KMeansData& boxes, int64_t k, uint64_t seed) {
  std::vector<double> nearest(boxes.size(), -1.0);
  std::vector<Shape> centres{boxes[random_below(seed, boxes.size())]};
  int64_t total = add_centre(boxes, centres.back(), nearest, true);
  while (static_cast<int64_t>(centres.size()) < k) {
    PYDET_CHECK(total > 0, "anchor_kmeans: k must be at most the number of different boxes, ", centres.size(), ", got ",
                k);
    int64_t least = total, best = -1;
    for (int draw = 0; draw < draws_of_centre(k); ++draw) {
      int64_t left = random_below(seed, total), i = -1;
      while (left >= 0) left -= boxes.fixed(1.0 - nearest[++i]);
      const int64_t after = add_centre(boxes, boxes[i], nearest, false);
      if (after < least) {
        least = after;
        best = i;
      }
    }
    centres.push_back(boxes[best]);
    total = add_centre(boxes, centres.back(), nearest, true);
  }
  return centres;
}

// Sizes along one axis, cluster after cluster.
std::vector<double> by_cluster(const std::vector<double>& sizes, const std::vector<int64_t>& label,
                               std::vector<int64_t> begin) {
  std::vector<double> sorted(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) sorted[begin[label[i]]++] = sizes[i];
  return sorted;
}

// Centres become the medians of their boxes, of two in the middle the lower. One without any becomes the box that is
// farthest from its own centre.
void move_to_medians(const KMeansData& boxes, Clusters& clusters, std::vector<Shape>& centres) {
  const int64_t k = static_cast<int64_t>(centres.size());
  std::vector<int64_t> begin(k + 1);
  for (const int64_t label : clusters.label) ++begin[label + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<double> widths = by_cluster(boxes.width, clusters.label, begin);
  std::vector<double> heights = by_cluster(boxes.height, clusters.label, begin);
  torch::stable::parallel_for(0, k, kPairsPerTask * k / boxes.size() + 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      if (begin[c] == begin[c + 1]) continue;
      const auto median = [from = begin[c], to = begin[c + 1]](std::vector<double>& sizes) {
        const auto middle = sizes.begin() + from + (to - from - 1) / 2;
        std::nth_element(sizes.begin() + from, middle, sizes.begin() + to);
        return *middle;
      };
      centres[c] = {median(widths), median(heights)};
    }
  });
  for (int64_t c = 0; c < k; ++c) {
    if (begin[c] < begin[c + 1]) continue;
    const auto worst = std::min_element(clusters.iou.begin(), clusters.iou.end());
    centres[c] = boxes[worst - clusters.iou.begin()];
    *worst = 2;  // taken
  }
}

std::tuple<Tensor, Tensor> anchor_kmeans_cpu(const Tensor& wh,  // [N, 2]
                                             int64_t k, int64_t seed, int64_t max_iterations) {
  check_anchor_kmeans(wh, k, max_iterations);
  const KMeansData boxes = load_shapes(wh);
  const size_t n = boxes.width.size();
  std::vector<Shape> centres = first_centres(boxes, k, static_cast<uint64_t>(seed)), best;
  Clusters clusters{std::vector<double>(n), std::vector<int64_t>(n, -1)};
  int64_t best_total = -1;
  for (int64_t iteration = 0;; ++iteration) {
    assign(boxes, centres, clusters);
    if (clusters.total_iou > best_total) {  // a median is not the best of all centres: a step may be one back
      best_total = clusters.total_iou;
      best = centres;
    }
    if (!clusters.changed || iteration == max_iterations) break;
    move_to_medians(boxes, clusters, centres);
  }
  std::stable_sort(best.begin(), best.end(), [](const Shape& a, const Shape& b) {
    return std::make_pair(a.width * a.height, a.width) < std::make_pair(b.width * b.height, b.width);
  });
  const ScalarType dtype = wide_dtype(wh);
  Tensor anchors = new_dense(wh, {k, 2}, dtype), average_iou = new_dense(wh, {}, dtype);
  PYDET_DISPATCH_FLOATING(dtype, "anchor_kmeans", [&] {
    scalar_t* out = anchors.mutable_data_ptr<scalar_t>();
    for (const Shape& centre : best) {
      *out++ = static_cast<scalar_t>(std::ldexp(centre.width, boxes.exponent));
      *out++ = static_cast<scalar_t>(std::ldexp(centre.height, boxes.exponent));
    }
    *average_iou.mutable_data_ptr<scalar_t>() =
        static_cast<scalar_t>(static_cast<double>(best_total) / boxes.unit / static_cast<double>(n));
  });
  return {anchors, average_iou};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("anchor_kmeans(Tensor wh, SymInt k, int seed=0, int max_iterations=300) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("anchor_kmeans", TORCH_BOX(&anchor_kmeans_cpu)); }

}  // namespace pydet
