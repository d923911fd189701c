// No include guard: compiled once per instruction set, see cpu_levels.h.
//
// A block of anchors meets one ground truth after another; the best IoU of each anchor so far stays in the L1 cache,
// and no IoU is ever stored. IoUs are compared as integers, see rank_of.
namespace pydet {
namespace PYDET_LEVEL {

// The maximum of the values for sign 1, the minimum for -1. By halves, which vectorises.
template <typename T>
T extreme(const T* __restrict__ values, T sign) {
  T half[kMatchBlock];
  for (int64_t t = 0; t < kMatchBlock; ++t) half[t] = sign * values[t];
  for (int64_t width = kMatchBlock / 2; width > 0; width /= 2) {
    for (int64_t t = 0; t < width; ++t) half[t] = maximum(half[t], half[t + width]);
  }
  return sign * half[0];
}

// Fills the block with `count` anchors; what is left of it repeats the first one, which changes no maximum.
template <typename T>
void load_anchors(const T* __restrict__ boxes, int64_t count, AnchorBlock<T>& block) {
  T repeated[4 * kMatchBlock];
  if (count < kMatchBlock) {
    for (int64_t t = 0; t < 4 * kMatchBlock; ++t) repeated[t] = boxes[t < 4 * count ? t : t % 4];
    boxes = repeated;
  }
  for (int64_t t = 0; t < kMatchBlock; ++t) {
    block.x1[t] = boxes[4 * t];
    block.y1[t] = boxes[4 * t + 1];
    block.x2[t] = boxes[4 * t + 2];
    block.y2[t] = boxes[4 * t + 3];
  }
  int plain = 1;
  for (int64_t t = 0; t < kMatchBlock; ++t) {
    const Box<T> b{block.x1[t], block.y1[t], block.x2[t], block.y2[t]};
    block.area[t] = area(b);
    plain &= is_plain(b, block.area[t]);
  }
  block.around = {extreme(block.x1, T(-1)), extreme(block.y1, T(-1)), extreme(block.x2, T(1)), extreme(block.y2, T(1))};
  block.plain = plain;
}

template <bool Plain, typename T>
PYDET_HD Rank<T> rank_at(const AnchorBlock<T>& block, int64_t t, const Truth<T>& truth) {
  const T value = iou(truth.box, truth.area, Box<T>{block.x1[t], block.y1[t], block.x2[t], block.y2[t]}, block.area[t]);
  return Plain ? rank_of_positive(value) : rank_of(value);
}

// One ground truth: updates what each anchor likes best and returns what the ground truth likes best.
template <bool Plain, typename T>
Rank<T> meet(const AnchorBlock<T>& block, const Truth<T>& truth, Rank<T> index, Rank<T>* __restrict__ best,
             Rank<T>* __restrict__ best_index) {
  Rank<T> highest = std::numeric_limits<Rank<T>>::min();
  for (int64_t t = 0; t < kMatchBlock; ++t) {
    const Rank<T> rank = rank_at<Plain>(block, t, truth);
    const bool better = rank > best[t];  // so that the first of equals stays
    best_index[t] = better ? index : best_index[t];
    best[t] = better ? rank : best[t];
    highest = rank > highest ? rank : highest;
  }
  return highest;
}

// Best IoU and ground truth of every anchor of a block. `highest` keeps the best of each ground truth over blocks.
template <typename T>
void match_block(const AnchorBlock<T>& block, const Truth<T>* truths, int64_t count, bool plain_truths, Rank<T>* best,
                 Rank<T>* best_index, Rank<T>* highest) {
  const bool plain = block.plain && plain_truths;
  // Where nothing is negative or NaN a block that is apart from a ground truth needs no look: its IoUs are 0.
  std::fill(best, best + kMatchBlock, plain ? Rank<T>(0) : std::numeric_limits<Rank<T>>::min());
  std::fill(best_index, best_index + kMatchBlock, Rank<T>(0));
  for (int64_t g = 0; g < count; ++g) {
    Rank<T> rank = 0;
    if (!plain) {
      rank = meet<false>(block, truths[g], static_cast<Rank<T>>(g), best, best_index);
    } else if (!apart(block.around, truths[g].box)) {
      rank = meet<true>(block, truths[g], static_cast<Rank<T>>(g), best, best_index);
    }
    highest[g] = rank > highest[g] ? rank : highest[g];
  }
}

// Sets equal[t] where the IoU of anchor t with the ground truth has this rank.
template <typename T>
void mark_equal(const AnchorBlock<T>& block, const Truth<T>& truth, Rank<T> rank, Rank<T>* __restrict__ equal) {
  for (int64_t t = 0; t < kMatchBlock; ++t) equal[t] |= rank_at<false>(block, t, truth) == rank;
}

// Sets above[t] where the IoU of anchor t with the ground truth is more than the threshold; NaN is not.
template <typename T>
void mark_above(const AnchorBlock<T>& block, const Truth<T>& truth, T threshold, Rank<T>* __restrict__ above) {
  for (int64_t t = 0; t < kMatchBlock; ++t) {
    const Box<T> b{block.x1[t], block.y1[t], block.x2[t], block.y2[t]};
    above[t] |= iou(truth.box, truth.area, b, block.area[t]) > threshold;
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
