// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// Lowers the scores beside the picked box, drops what falls below the least score, and returns the highest score left
// (-inf where there is none). `slots` is a multiple of kSoftBlock; a slot whose score is -inf is empty and stays so.
template <SoftNmsMethod kMethod, typename T>
T soft_nms_pass(const SoftBoxes<T>& boxes, int64_t slots, Box<T> picked, T picked_area, SoftNmsRule<T> rule) {
  const T infinity = std::numeric_limits<T>::infinity();
  T highest[kSoftBlock];  // of each lane: a vector
  for (T& lane : highest) lane = -infinity;
  for (int64_t block = 0; block < slots; block += kSoftBlock) {
    const T *x1 = boxes.x1 + block, *y1 = boxes.y1 + block, *x2 = boxes.x2 + block, *y2 = boxes.y2 + block;
    const T* area = boxes.area + block;
    T* __restrict__ score = boxes.score + block;
    for (int64_t k = 0; k < kSoftBlock; ++k) {
      const T overlap = soft_nms_iou(picked, picked_area, Box<T>{x1[k], y1[k], x2[k], y2[k]}, area[k], rule.offset);
      const T decayed = soft_nms_decay<kMethod>(score[k], overlap, rule);
      // One condition more for an empty slot: -inf times a weight of 0 is NaN.
      const T left = decayed < rule.min_score ? -infinity : decayed;
      score[k] = score[k] == -infinity ? score[k] : left;
      highest[k] = maximum(rank_of_score(score[k]), highest[k]);
    }
  }
  T best = -infinity;
  for (const T lane : highest) best = maximum(lane, best);
  return best;
}

template <typename T>
T soft_nms_lower(SoftNmsMethod method, const SoftBoxes<T>& boxes, int64_t slots, Box<T> picked, T picked_area,
                 SoftNmsRule<T> rule) {
  switch (method) {
    case SoftNmsMethod::naive:
      return soft_nms_pass<SoftNmsMethod::naive>(boxes, slots, picked, picked_area, rule);
    case SoftNmsMethod::linear:
      return soft_nms_pass<SoftNmsMethod::linear>(boxes, slots, picked, picked_area, rule);
    default:
      return soft_nms_pass<SoftNmsMethod::gaussian>(boxes, slots, picked, picked_area, rule);
  }
}

// First slot with this rank, which one has.
template <typename T>
int64_t soft_nms_find(const SoftBoxes<T>& boxes, T rank) {
  for (int64_t block = 0;; block += kSoftBlock) {
    int here = 0;
    for (int64_t k = block; k < block + kSoftBlock; ++k) here |= rank_of_score(boxes.score[k]) == rank;
    if (!here) continue;
    while (rank_of_score(boxes.score[block]) != rank) ++block;
    return block;
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
