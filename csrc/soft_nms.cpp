// Each pick lowers the scores of all boxes that are left, and finds the best of them, in one pass of vectors.
#include <limits>
#include <tuple>

#include "checks/nms.h"

namespace pydet {
namespace {

constexpr int64_t kSoftBlock = 16;  // boxes at a time

// What has not been picked or dropped, in the order of the input, with empty slots (score -inf) in between.
template <typename T>
struct SoftBoxes {
  T *x1, *y1, *x2, *y2, *area, *score;
  uint32_t* index;

  void move(int64_t from, int64_t to) const {
    for (T* values : {x1, y1, x2, y2, area, score}) values[to] = values[from];
    index[to] = index[from];
  }
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/soft_nms.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

int64_t round_up(int64_t slots) { return (slots + kSoftBlock - 1) / kSoftBlock * kSoftBlock; }

// Closes the gaps; returns the slots that are left, those behind the last box of a block emptied.
template <typename T>
int64_t compact(const SoftBoxes<T>& boxes, int64_t slots) {
  const T empty = -std::numeric_limits<T>::infinity();
  int64_t filled = 0;
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (boxes.score[slot] != empty) boxes.move(slot, filled++);
  }
  std::fill(boxes.score + filled, boxes.score + round_up(filled), empty);
  return round_up(filled);
}

template <typename T>
std::tuple<Tensor, Tensor> soft_nms_as(const Tensor& boxes, const Tensor& scores, SoftNmsMethod method,
                                       SoftNmsRule<T> rule) {
  const Tensor dense_boxes = as_contiguous(boxes, kDtype<T>), dense_scores = as_contiguous(scores, kDtype<T>);
  const Box<T>* input = reinterpret_cast<const Box<T>*>(dense_boxes.template const_data_ptr<T>());
  const T* input_scores = dense_scores.template const_data_ptr<T>();
  const int64_t n = boxes.size(0);
  int64_t slots = round_up(n);
  const T empty = -std::numeric_limits<T>::infinity();
  std::vector<T> memory(6 * slots);
  std::vector<uint32_t> indices(slots);
  T* m = memory.data();
  const SoftBoxes<T> left{m, m + slots, m + 2 * slots, m + 3 * slots, m + 4 * slots, m + 5 * slots, indices.data()};
  std::fill(left.score + n, left.score + slots, empty);
  T best = empty;
  for (int64_t i = 0; i < n; ++i) {
    left.x1[i] = input[i].x1;
    left.y1[i] = input[i].y1;
    left.x2[i] = input[i].x2;
    left.y2[i] = input[i].y2;
    left.area[i] = soft_nms_area(input[i], rule.offset);
    left.score[i] = input_scores[i];
    left.index[i] = static_cast<uint32_t>(i);
    best = std::max(best, rank_of_score(input_scores[i]));
  }
  std::vector<T> dets;
  std::vector<int64_t> inds;
  int64_t since_compact = 0;
  while (best != empty || (inds.empty() && n > 0)) {  // the first is picked whatever its score is
    const int64_t slot = PYDET_CPU_CALL(soft_nms_find, left, best);
    const Box<T> box{left.x1[slot], left.y1[slot], left.x2[slot], left.y2[slot]};
    for (const T value : {box.x1, box.y1, box.x2, box.y2, left.score[slot]}) dets.push_back(value);
    inds.push_back(left.index[slot]);
    left.score[slot] = empty;
    best = PYDET_CPU_CALL(soft_nms_lower, method, left, slots, box, left.area[slot], rule);
    if (++since_compact * 8 > slots) {  // as often as keeps its cost below that of the passes
      slots = compact(left, slots);
      since_compact = 0;
    }
  }
  const int64_t kept = static_cast<int64_t>(inds.size());
  Tensor out_dets = new_dense(boxes, {kept, 5}, kDtype<T>), out_inds = new_dense(boxes, {kept}, ScalarType::Long);
  std::copy(dets.begin(), dets.end(), out_dets.template mutable_data_ptr<T>());
  std::copy(inds.begin(), inds.end(), out_inds.mutable_data_ptr<int64_t>());
  return {out_dets, out_inds};
}

std::tuple<Tensor, Tensor> soft_nms_cpu(const Tensor& boxes,   // [N, 4] xyxy
                                        const Tensor& scores,  // [N]
                                        double iou_threshold, double sigma, double min_score, Text method,
                                        int64_t offset) {
  const SoftNmsMethod kind = check_soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset);
  if (wide_dtype(boxes, scores) == ScalarType::Double) {
    return soft_nms_as<double>(boxes, scores, kind, {iou_threshold, sigma, min_score, static_cast<double>(offset)});
  }
  return soft_nms_as<float>(boxes, scores, kind,
                            {static_cast<float>(iou_threshold), static_cast<float>(sigma),
                             static_cast<float>(min_score), static_cast<float>(offset)});
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, float iou_threshold=0.3, float sigma=0.5, float min_score=0.001, "
      "str method='linear', int offset=0) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms_cpu)); }

}  // namespace pydet
