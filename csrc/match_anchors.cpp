#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "checks/match_anchors.h"
#include "match_cpu.h"

namespace pydet {
namespace {

constexpr int64_t kMatchChunks = 64;          // parts of an image's anchors, each of whole blocks
constexpr int64_t kPairsPerTask = 1 << 16;    // about 20 us of work

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/match_anchors.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

// One call. `highest` holds, for each chunk of anchors, the best of each ground truth: 64 ranks a ground truth at most.
template <typename T>
struct Matching {
  const T* anchors;
  int64_t anchor_count, image_stride;  // between the anchors of two images: 0 where they share them
  std::vector<Truth<T>> truths;
  std::vector<ImageTruths> images;
  Rank<T> high, low;
  MatchMode mode;
  int64_t* out;
  int64_t chunk_blocks, chunks;
  std::vector<Rank<T>> highest;

  int64_t first_anchor(int64_t chunk) const { return chunk * chunk_blocks * kMatchBlock; }
  int64_t end_anchor(int64_t chunk) const { return std::min(anchor_count, first_anchor(chunk + 1)); }
  const T* anchors_of(int64_t image) const { return anchors + image * image_stride; }
  Rank<T>* highest_in(int64_t chunk) { return highest.data() + chunk * static_cast<int64_t>(truths.size()); }
  // Anchors are read once a chunk, however few ground truths there are.
  int64_t grain() const {
    const int64_t per_image = static_cast<int64_t>(truths.size() / images.size()) + 8;
    return kPairsPerTask / (chunk_blocks * kMatchBlock * per_image) + 1;
  }
};

// The best ground truth of every anchor of a chunk, by the thresholds. In RetinaNet's mode the low half of a result is
// that and the high half is the best ground truth whatever its IoU, until restore_low_quality.
template <typename T>
void match_chunk(Matching<T>& m, int64_t image, int64_t chunk) {
  const ImageTruths& truths = m.images[image];
  int64_t* out = m.out + image * m.anchor_count;
  if (truths.count == 0) {
    std::fill(out + m.first_anchor(chunk), out + m.end_anchor(chunk), kBackground);
    return;
  }
  AnchorBlock<T> block;
  Rank<T> best[kMatchBlock], best_index[kMatchBlock];
  for (int64_t first = m.first_anchor(chunk); first < m.end_anchor(chunk); first += kMatchBlock) {
    const int64_t count = std::min(kMatchBlock, m.anchor_count - first);
    PYDET_CPU_CALL(load_anchors, m.anchors_of(image) + 4 * first, count, block);
    PYDET_CPU_CALL(match_block, block, m.truths.data() + truths.begin, truths.count, truths.plain, best, best_index,
                   m.highest_in(chunk) + truths.begin);
    const bool keep_index = m.mode == MatchMode::retinanet;
    for (int64_t t = 0; t < count; ++t) {
      const int64_t index = best_index[t];
      const int64_t result = best[t] < m.low ? kBackground : best[t] < m.high ? kBetween : index;
      out[first + t] = keep_index ? (index << 32) | (result & UINT32_MAX) : result;
    }
  }
}

// Best rank of each ground truth over all anchors.
template <typename T>
std::vector<Rank<T>> overall_highest(Matching<T>& m) {
  std::vector<Rank<T>> overall(m.highest_in(0), m.highest_in(1));
  for (int64_t chunk = 1; chunk < m.chunks; ++chunk) {
    const Rank<T>* in_chunk = m.highest_in(chunk);
    for (size_t g = 0; g < overall.size(); ++g) overall[g] = std::max(overall[g], in_chunk[g]);
  }
  return overall;
}

// Anchors on which a ground truth's best IoU lies, ties included, get their own best ground truth back.
template <typename T>
void restore_low_quality(Matching<T>& m, int64_t image, int64_t chunk, const std::vector<Rank<T>>& overall) {
  const ImageTruths& truths = m.images[image];
  if (truths.count == 0) return;
  // Ground truths whose best lies in this chunk. NaN may be: an anchor that has it is matched already, and stays so.
  std::vector<int64_t> here;
  for (int64_t g = truths.begin; g < truths.begin + truths.count; ++g) {
    if (m.highest_in(chunk)[g] == overall[g]) here.push_back(g);
  }
  int64_t* out = m.out + image * m.anchor_count;
  AnchorBlock<T> block;
  Rank<T> equal[kMatchBlock];
  for (int64_t first = m.first_anchor(chunk); first < m.end_anchor(chunk); first += kMatchBlock) {
    const int64_t count = std::min(kMatchBlock, m.anchor_count - first);
    std::fill(equal, equal + kMatchBlock, Rank<T>(0));
    if (!here.empty()) PYDET_CPU_CALL(load_anchors, m.anchors_of(image) + 4 * first, count, block);
    for (const int64_t g : here) {
      const bool skip = block.plain && truths.plain && overall[g] > 0 && apart(block.around, m.truths[g].box);
      if (!skip) PYDET_CPU_CALL(mark_equal, block, m.truths[g], overall[g], equal);
    }
    for (int64_t t = first; t < first + count; ++t) {
      out[t] = equal[t - first] ? out[t] >> 32 : static_cast<int32_t>(out[t]);
    }
  }
}

// First anchor with the best IoU of ground truth g, NaN counting as the best.
template <typename T>
int64_t best_anchor(Matching<T>& m, int64_t image, int64_t g, Rank<T> highest) {
  int64_t chunk = 0;
  while (m.highest_in(chunk)[g] != highest) ++chunk;
  AnchorBlock<T> block;
  Rank<T> equal[kMatchBlock];
  for (int64_t first = m.first_anchor(chunk);; first += kMatchBlock) {
    const int64_t count = std::min(kMatchBlock, m.anchor_count - first);
    PYDET_CPU_CALL(load_anchors, m.anchors_of(image) + 4 * first, count, block);
    std::fill(equal, equal + kMatchBlock, Rank<T>(0));
    PYDET_CPU_CALL(mark_equal, block, m.truths[g], highest, equal);
    const Rank<T>* hit = std::find(equal, equal + kMatchBlock, Rank<T>(1));
    if (hit != equal + kMatchBlock) return first + (hit - equal);
  }
}

// SSD section 2.2: every ground truth gets its best prior; where two want the same one the last has it, as in
// torchvision.
template <typename T>
void force_best(Matching<T>& m, const std::vector<Rank<T>>& overall) {
  std::vector<int64_t> anchor(m.truths.size()), image_of(m.truths.size());
  for (size_t image = 0; image < m.images.size(); ++image) {
    const auto begin = image_of.begin() + m.images[image].begin;
    std::fill(begin, begin + m.images[image].count, static_cast<int64_t>(image));
  }
  const int64_t grain = kPairsPerTask / (m.chunk_blocks * kMatchBlock) + 1;
  torch::stable::parallel_for(0, static_cast<int64_t>(anchor.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) anchor[g] = best_anchor(m, image_of[g], g, overall[g]);
  });
  for (size_t g = 0; g < anchor.size(); ++g) {
    m.out[image_of[g] * m.anchor_count + anchor[g]] = static_cast<int64_t>(g) - m.images[image_of[g]].begin;
  }
}

template <typename T>
void match_all(Matching<T>& m) {
  const auto for_each_chunk = [&m](const auto& visit) {
    const int64_t tasks = static_cast<int64_t>(m.images.size()) * m.chunks;
    torch::stable::parallel_for(0, tasks, m.grain(), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) visit(task / m.chunks, task % m.chunks);
    });
  };
  for_each_chunk([&m](int64_t image, int64_t chunk) { match_chunk(m, image, chunk); });
  if (m.mode == MatchMode::threshold || m.truths.empty()) return;
  const std::vector<Rank<T>> overall = overall_highest(m);
  if (m.mode == MatchMode::ssd) return force_best(m, overall);
  for_each_chunk([&](int64_t image, int64_t chunk) { restore_low_quality(m, image, chunk, overall); });
}

template <typename T>
void match_anchors_as(const Tensor& anchors, const Tensor& gt_boxes, const std::vector<int64_t>& counts, double high,
                      double low, MatchMode mode, Tensor& out) {
  const Tensor dense = as_contiguous(anchors, kDtype<T>);
  Matching<T> m;
  m.anchors = dense.const_data_ptr<T>();
  m.anchor_count = dense.size(-2);
  m.image_stride = dense.dim() == 3 ? 4 * m.anchor_count : 0;
  m.truths = load_truths<T>(gt_boxes);
  m.images = by_image(m.truths, counts);
  m.high = rank_of(static_cast<T>(high));  // torch compares a float tensor with a Python number in float
  m.low = rank_of(static_cast<T>(low));
  m.mode = mode;
  m.out = out.mutable_data_ptr<int64_t>();
  const int64_t blocks = (m.anchor_count + kMatchBlock - 1) / kMatchBlock;
  m.chunk_blocks = (blocks + kMatchChunks - 1) / kMatchChunks;
  m.chunks = (blocks + m.chunk_blocks - 1) / m.chunk_blocks;
  m.highest.assign(m.chunks * m.truths.size(), std::numeric_limits<Rank<T>>::min());
  match_all(m);
}

Tensor match_anchors_cpu(const Tensor& anchors,         // [A, 4] or [B, A, 4] xyxy
                         const Tensor& gt_boxes,        // [G, 4] xyxy
                         std::optional<Tensor> counts,  // [B]
                         double high_threshold, std::optional<double> low_threshold, Text mode_name) {
  const MatchMode mode = check_match_anchors(anchors, gt_boxes, counts, high_threshold, low_threshold, mode_name);
  const double low = low_threshold_of(mode, high_threshold, low_threshold);
  const std::vector<int64_t> per_image = load_counts("match_anchors", counts, gt_boxes.size(0));
  std::vector<int64_t> shape{anchors.size(-2)};
  if (counts) shape.insert(shape.begin(), counts->size(0));
  Tensor out = new_dense(anchors, shape, ScalarType::Long);
  if (out.numel() == 0) return out;
  if (wide_dtype(anchors, gt_boxes) == ScalarType::Double) {
    match_anchors_as<double>(anchors, gt_boxes, per_image, high_threshold, low, mode, out);
  } else {
    match_anchors_as<float>(anchors, gt_boxes, per_image, high_threshold, low, mode, out);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "match_anchors(Tensor anchors, Tensor gt_boxes, Tensor? counts=None, float high_threshold=0.5, "
      "float? low_threshold=None, str mode='retinanet') -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("match_anchors", TORCH_BOX(&match_anchors_cpu)); }

}  // namespace pydet
