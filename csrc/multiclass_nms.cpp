// Scores are scanned once, by all threads; then each image by itself ranks what is above the threshold and suppresses
// it from the best on, no further than max_per_image boxes need.
#include <algorithm>
#include <optional>
#include <tuple>

#include "checks/nms.h"
#include "nms_cpu.h"
#include "nms_order.h"
#include "widen.h"

namespace pydet {
namespace {

constexpr int64_t kScanSlack = 16;           // values that a scan may write behind its last one: a vector
constexpr int64_t kScanValues = 1 << 12;     // at a time, so that their indices stay in the L1 cache
constexpr int64_t kValuesPerTask = 1 << 18;  // about 50 us of work

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/multiclass_nms.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

struct MulticlassOptions {
  double score_threshold, iou_threshold;
  int64_t max_per_image;
  int64_t top_k;
  bool class_agnostic, multi_label, boxes_per_class;
  int64_t class_top_k = INT64_MAX;  // of each class
};

// Scores above the threshold, by flat index row * C + class.
template <typename S>
struct Candidates {
  std::vector<S> scores;
  std::vector<uint32_t> indices;

  void append(const Candidates& more) {
    scores.insert(scores.end(), more.scores.begin(), more.scores.end());
    indices.insert(indices.end(), more.indices.begin(), more.indices.end());
  }

  // Leaves the best class of each row, the first of equal ones.
  void keep_best_of_rows(uint32_t classes) {
    size_t kept = 0;
    for (size_t i = 0; i < indices.size(); ++i) {
      if (kept == 0 || indices[kept - 1] / classes != indices[i] / classes) {
        ++kept;
      } else if (!(scores[i] > scores[kept - 1])) {
        continue;
      }
      scores[kept - 1] = scores[i];
      indices[kept - 1] = indices[i];
    }
    scores.resize(kept);
    indices.resize(kept);
  }
};

template <typename S, typename In>
void scan_rows(const In* scores, int64_t stride, int64_t classes, int64_t begin, int64_t end, S threshold,
               Candidates<S>& out) {
  const int64_t rows_at_once = std::max<int64_t>(1, kScanValues / classes);
  std::vector<uint32_t> found(rows_at_once * classes + kScanSlack);
  for (int64_t row = begin; row < end; row += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, end - row);
    const uint32_t first = static_cast<uint32_t>(row * classes);
    const In* here = scores + row * stride;
    const int64_t count = PYDET_CPU_CALL(scores_above, here, rows, classes, stride, threshold, first, found.data());
    for (int64_t k = 0; k < count; ++k) {
      const int64_t value = found[k] - first;
      out.scores.push_back(widen(stride == classes ? here[value] : here[value / classes * stride + value % classes]));
    }
    out.indices.insert(out.indices.end(), found.begin(), found.begin() + count);
  }
}

// Of each image, in the order of their indices.
template <typename S, typename In>
std::vector<Candidates<S>> scan(const Tensor& scores, double score_threshold) {
  const int64_t batch = scores.size(0), n = scores.size(1), classes = scores.size(2);
  std::vector<Candidates<S>> images(batch);
  if (scores.numel() == 0) return images;
  const In* data = scores.const_data_ptr<In>();
  const int64_t task_rows = std::max<int64_t>(1, kValuesPerTask / classes), tasks = (n + task_rows - 1) / task_rows;
  std::vector<Candidates<S>> parts(batch * tasks);
  torch::stable::parallel_for(0, batch * tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task % tasks * task_rows;
      scan_rows(data + task / tasks * scores.stride(0), scores.stride(1), classes, row, std::min(n, row + task_rows),
                static_cast<S>(score_threshold), parts[task]);
    }
  });
  for (int64_t task = 0; task < batch * tasks; ++task) images[task / tasks].append(parts[task]);
  return images;
}

// What is kept of the best candidates, as far as the output has room: flat indices, best first.
template <typename T>
std::vector<uint32_t> kept_of(const Box<T>* boxes, int64_t classes, const std::vector<uint32_t>& candidates,
                              const MulticlassOptions& o) {
  const size_t n = candidates.size();
  std::vector<Box<T>> ranked(n);
  std::vector<int64_t> labels(n);
  std::vector<uint32_t> order(n), kept;
  std::vector<uint8_t> keep(n);
  for (size_t i = 0; i < n; ++i) {
    ranked[i] = boxes[o.boxes_per_class ? candidates[i] : candidates[i] / classes];
    labels[i] = candidates[i] % classes;
    order[i] = static_cast<uint32_t>(i);
  }
  if (o.class_agnostic) {
    NmsScratch<T> scratch;
    suppress(ranked.data(), order.data(), static_cast<int64_t>(n), o.iou_threshold, scratch, keep.data());
  } else {
    suppress_by_class(ranked.data(), order, labels, o.iou_threshold, keep.data());
  }
  for (size_t i = 0; i < n && static_cast<int64_t>(kept.size()) < o.max_per_image; ++i) {
    if (keep[i]) kept.push_back(candidates[i]);
  }
  return kept;
}

// Leaves the best of each class, of flat indices that are sorted.
void keep_best_of_classes(std::vector<uint32_t>& sorted, int64_t classes, int64_t most) {
  std::vector<int64_t> counts(static_cast<size_t>(classes));
  const auto is_beyond = [&](uint32_t index) { return ++counts[index % static_cast<uint32_t>(classes)] > most; };
  sorted.erase(std::remove_if(sorted.begin(), sorted.end(), is_beyond), sorted.end());
}

// What is kept of the best candidates does not depend on the others: so many are taken as fill the output, a guess that
// is doubled until it was enough.
template <typename T, typename S>
std::vector<uint32_t> select(const Box<T>* boxes, int64_t classes, Candidates<S>& found, const MulticlassOptions& o) {
  if (!o.multi_label) found.keep_best_of_rows(static_cast<uint32_t>(classes));
  const int64_t n = static_cast<int64_t>(found.indices.size()), limit = std::min(n, o.top_k);
  for (int64_t guess = o.max_per_image < limit / 4 ? std::max<int64_t>(4 * o.max_per_image, 256) : limit;; guess *= 2) {
    std::vector<uint32_t> candidates = best_by_score(found.scores.data(), n, std::min(guess, limit));
    if (static_cast<int64_t>(candidates.size()) > limit) candidates.resize(limit);
    const bool all = static_cast<int64_t>(candidates.size()) == limit;
    for (uint32_t& candidate : candidates) candidate = found.indices[candidate];
    if (o.class_top_k < n) keep_best_of_classes(candidates, classes, o.class_top_k);
    std::vector<uint32_t> kept = kept_of(boxes, classes, candidates, o);
    if (all || static_cast<int64_t>(kept.size()) == o.max_per_image) return kept;
  }
}

struct Detections {
  Tensor boxes, scores, labels, rows, count;
};

// Values are copied as bytes: the outputs have the dtypes of the inputs.
void write(const Tensor& boxes, const Tensor& scores, int64_t image, const std::vector<uint32_t>& kept,
           const MulticlassOptions& o, Detections& out) {
  const int64_t classes = scores.size(2), n = scores.size(1), k = o.max_per_image;
  const int64_t box_bytes = 4 * static_cast<int64_t>(boxes.element_size());
  const int64_t score_bytes = static_cast<int64_t>(scores.element_size());
  const char* boxes_in =
      static_cast<const char*>(boxes.const_data_ptr()) + image * n * (o.boxes_per_class ? classes : 1) * box_bytes;
  const char* scores_in = static_cast<const char*>(scores.const_data_ptr()) + image * scores.stride(0) * score_bytes;
  char* boxes_out = static_cast<char*>(out.boxes.mutable_data_ptr()) + image * k * box_bytes;
  char* scores_out = static_cast<char*>(out.scores.mutable_data_ptr()) + image * k * score_bytes;
  int64_t* labels = out.labels.mutable_data_ptr<int64_t>() + image * k;
  int64_t* rows = out.rows.mutable_data_ptr<int64_t>() + image * k;
  const int64_t count = static_cast<int64_t>(kept.size());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = kept[i] / classes, label = kept[i] % classes;
    std::memcpy(boxes_out + i * box_bytes, boxes_in + (o.boxes_per_class ? kept[i] : row) * box_bytes, box_bytes);
    std::memcpy(scores_out + i * score_bytes, scores_in + (row * scores.stride(1) + label) * score_bytes, score_bytes);
    labels[i] = label;
    rows[i] = row;
  }
  std::memset(boxes_out + count * box_bytes, 0, (k - count) * box_bytes);
  std::memset(scores_out + count * score_bytes, 0, (k - count) * score_bytes);
  std::fill(labels + count, labels + k, int64_t{-1});
  std::fill(rows + count, rows + k, int64_t{0});
  out.count.mutable_data_ptr<int64_t>()[image] = count;
}

template <typename T, typename S>
void select_all(const Tensor& boxes, const Tensor& scores, std::vector<Candidates<S>>& images,
                const MulticlassOptions& o, Detections& out) {
  const Tensor wide = as_contiguous(boxes, kDtype<T>);
  const Box<T>* data = reinterpret_cast<const Box<T>*>(wide.template const_data_ptr<T>());
  const int64_t classes = scores.size(2), per_image = scores.size(1) * (o.boxes_per_class ? classes : 1);
  const auto select_images = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      write(boxes, scores, i, select(data + i * per_image, classes, images[i], o), o, out);
  };
  if (images.size() == 1) {
    select_images(0, 1);  // the threads are left to its classes
  } else {
    torch::stable::parallel_for(0, images.size(), 1, select_images);
  }
}

using Selected = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Selected select_detections(const Tensor& boxes, const Tensor& scores, const MulticlassOptions& options) {
  const int64_t max_per_image = options.max_per_image;
  const Tensor dense_boxes = as_contiguous(boxes, boxes.scalar_type());
  // Classes side by side are read where they lie, as in predictions[..., 5:].
  const Tensor read_scores = scores.stride(2) == 1 ? scores : torch::stable::contiguous(scores);
  const int64_t batch = scores.size(0);
  Detections out{new_dense(boxes, {batch, max_per_image, 4}, boxes.scalar_type()),
                 new_dense(boxes, {batch, max_per_image}, scores.scalar_type()),
                 new_dense(boxes, {batch, max_per_image}, ScalarType::Long),
                 new_dense(boxes, {batch, max_per_image}, ScalarType::Long),
                 new_dense(boxes, {batch}, ScalarType::Long)};
  PYDET_DISPATCH_FLOATING(scores.scalar_type(), "multiclass_nms", [&] {
    using score_t = Wide<scalar_t>;
    auto images = scan<score_t, scalar_t>(read_scores, options.score_threshold);
    if (boxes.scalar_type() == ScalarType::Double) {
      select_all<double>(dense_boxes, read_scores, images, options, out);
    } else {
      select_all<float>(dense_boxes, read_scores, images, options, out);
    }
  });
  return {out.boxes, out.scores, out.labels, out.rows, out.count};
}

Selected multiclass_nms_cpu(const Tensor& boxes,   // [B, N, 4] or [B, N, C, 4]
                            const Tensor& scores,  // [B, N, C]
                            double score_threshold, double iou_threshold, int64_t max_per_image,
                            std::optional<int64_t> pre_nms_top_k, bool class_agnostic, bool multi_label) {
  const bool per_class =
      check_multiclass_nms(boxes, scores, score_threshold, iou_threshold, max_per_image, pre_nms_top_k);
  return select_detections(boxes, scores,
                           {score_threshold, iou_threshold, max_per_image, pre_nms_top_k.value_or(INT64_MAX),
                            class_agnostic, multi_label, per_class});
}

Selected multiclass_nms_by_class_cpu(const Tensor& boxes, const Tensor& scores, double score_threshold,
                                     double iou_threshold, int64_t max_per_image, int64_t class_top_k) {
  const bool per_class =
      check_multiclass_nms(boxes, scores, score_threshold, iou_threshold, max_per_image, std::nullopt);
  PYDET_CHECK(class_top_k >= 1, "_multiclass_nms_by_class: class_top_k must be at least 1, got ", class_top_k);
  return select_detections(
      boxes, scores, {score_threshold, iou_threshold, max_per_image, INT64_MAX, false, true, per_class, class_top_k});
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "multiclass_nms(Tensor boxes, Tensor scores, float score_threshold, float iou_threshold, SymInt max_per_image, "
      "SymInt? pre_nms_top_k=None, bool class_agnostic=False, bool multi_label=True) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "_multiclass_nms_by_class(Tensor boxes, Tensor scores, float score_threshold, float iou_threshold, "
      "int max_per_image, int class_top_k) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("multiclass_nms", TORCH_BOX(&multiclass_nms_cpu));
  m.impl("_multiclass_nms_by_class", TORCH_BOX(&multiclass_nms_by_class_cpu));
}

}  // namespace pydet
