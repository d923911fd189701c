// Greedy non-maximum suppression of one class. No include guard: compiled once per instruction set, see cpu_levels.h.
//
// Boxes are visited best score first and compared with the boxes kept so far, a block of kept boxes at a time. While
// few are kept they stand in one list. Beyond that they stand in a grid, and only cells are visited in which a box with
// enough overlap can lie, so that the cost grows with the overlaps and not with the square of the number of boxes.
namespace pydet {
namespace PYDET_LEVEL {

// Kept boxes as five runs of values. A slot that is not filled holds a box that overlaps nothing, so that whole blocks
// can be tested without looking where a run ends: what stands behind it is kept boxes too, or nothing.
template <typename T>
struct KeptBoxes {
  T *x1, *y1, *x2, *y2, *area;

  void put(int64_t slot, const Box<T>& b, T b_area) const {
    x1[slot] = b.x1;
    y1[slot] = b.y1;
    x2[slot] = b.x2;
    y2[slot] = b.y2;
    area[slot] = b_area;
  }
};

template <typename T>
inline KeptBoxes<T> empty_kept(T* memory, int64_t slots) {
  const T infinity = std::numeric_limits<T>::infinity();
  const KeptBoxes<T> kept{memory, memory + slots, memory + 2 * slots, memory + 3 * slots, memory + 4 * slots};
  std::fill(memory, memory + 2 * slots, infinity);
  std::fill(memory + 2 * slots, memory + 4 * slots, -infinity);
  std::fill(memory + 4 * slots, memory + 5 * slots, T(1));
  return kept;
}

// Bit k is set where kept box `block + k` may suppress the box: inter > low * union is true for every IoU above the
// threshold, because low is below it by more than the product can round. The division is left to those.
template <typename T>
inline uint32_t close_ones(const KeptBoxes<T>& kept, int64_t block, const Box<T>& box, T box_area, T low) {
  uint32_t close = 0;
  for (int64_t k = block; k < block + nms_block<T>(); ++k) {
    const T overlap = intersection(box, Box<T>{kept.x1[k], kept.y1[k], kept.x2[k], kept.y2[k]});
    close |= static_cast<uint32_t>(overlap > low * (kept.area[k] + box_area - overlap)) << (k - block);
  }
  return close;
}

// The compiler vectorises the loop above but not what gathers the bits, which instructions exist for.
#if defined(PYDET_LEVEL_IS_AVX512)
inline uint32_t close_ones(const KeptBoxes<float>& kept, int64_t k, const Box<float>& box, float box_area, float low) {
  const __m512 left = _mm512_max_ps(_mm512_loadu_ps(kept.x1 + k), _mm512_set1_ps(box.x1));
  const __m512 top = _mm512_max_ps(_mm512_loadu_ps(kept.y1 + k), _mm512_set1_ps(box.y1));
  const __m512 right = _mm512_min_ps(_mm512_loadu_ps(kept.x2 + k), _mm512_set1_ps(box.x2));
  const __m512 bottom = _mm512_min_ps(_mm512_loadu_ps(kept.y2 + k), _mm512_set1_ps(box.y2));
  const __m512 w = _mm512_max_ps(_mm512_sub_ps(right, left), _mm512_setzero_ps());
  const __m512 h = _mm512_max_ps(_mm512_sub_ps(bottom, top), _mm512_setzero_ps());
  const __m512 overlap = _mm512_mul_ps(w, h);
  const __m512 both = _mm512_add_ps(_mm512_loadu_ps(kept.area + k), _mm512_set1_ps(box_area));
  const __m512 bound = _mm512_mul_ps(_mm512_sub_ps(both, overlap), _mm512_set1_ps(low));
  return _mm512_cmp_ps_mask(overlap, bound, _CMP_GT_OQ);
}
#elif defined(PYDET_LEVEL_IS_AVX2)
inline uint32_t close_ones(const KeptBoxes<float>& kept, int64_t k, const Box<float>& box, float box_area, float low) {
  uint32_t close = 0;
  for (int half = 0; half < 2; ++half, k += 8) {
    const __m256 left = _mm256_max_ps(_mm256_loadu_ps(kept.x1 + k), _mm256_set1_ps(box.x1));
    const __m256 top = _mm256_max_ps(_mm256_loadu_ps(kept.y1 + k), _mm256_set1_ps(box.y1));
    const __m256 right = _mm256_min_ps(_mm256_loadu_ps(kept.x2 + k), _mm256_set1_ps(box.x2));
    const __m256 bottom = _mm256_min_ps(_mm256_loadu_ps(kept.y2 + k), _mm256_set1_ps(box.y2));
    const __m256 w = _mm256_max_ps(_mm256_sub_ps(right, left), _mm256_setzero_ps());
    const __m256 h = _mm256_max_ps(_mm256_sub_ps(bottom, top), _mm256_setzero_ps());
    const __m256 overlap = _mm256_mul_ps(w, h);
    const __m256 both = _mm256_add_ps(_mm256_loadu_ps(kept.area + k), _mm256_set1_ps(box_area));
    const __m256 bound = _mm256_mul_ps(_mm256_sub_ps(both, overlap), _mm256_set1_ps(low));
    close |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(overlap, bound, _CMP_GT_OQ))) << (8 * half);
  }
  return close;
}
#endif

// Whether one of the kept boxes from slot `begin` on, at least `count` of them, suppresses the box.
template <typename T>
inline bool suppressed_by(const KeptBoxes<T>& kept, int64_t begin, int64_t count, const Box<T>& box, T box_area, T low,
                          double threshold) {
  for (int64_t block = begin; block < begin + count; block += nms_block<T>()) {
    for (uint32_t close = close_ones(kept, block, box, box_area, low); close != 0; close &= close - 1) {
      const int64_t k = block + __builtin_ctz(close);
      const double exact = iou(Box<T>{kept.x1[k], kept.y1[k], kept.x2[k], kept.y2[k]}, kept.area[k], box, box_area);
      if (exact > threshold) return true;
    }
  }
  return false;
}

// Cells for boxes of similar area: level l holds areas in [4^l, 4^(l+1)).
template <typename T>
struct GridLevel {
  int64_t boxes = 0;
  int64_t first_cell = 0;
  int64_t columns = 1, rows = 1;
  T cells_per_pixel = 0;
  T widest = 0, highest = 0;
};

template <typename T>
class Grid {
 public:
  // Takes the boxes from position `first` of the order on, and the `kept_count` boxes that were kept before it.
  Grid(const Box<T>* boxes, const uint32_t* order, int64_t first, int64_t n, const KeptBoxes<T>& before,
       int64_t kept_count, double threshold, NmsScratch<T>& scratch)
      : threshold_(threshold), ratio_(static_cast<T>(std::min(threshold, 1.0) * 0.999)), scratch_(scratch) {
    low_ = nms_low<T>(threshold);
    // With IoU t and equal heights, boxes of widths w and v share at least t (w + v) / (1 + t), so that their centres
    // are at most (w + v) (1 - t) / (2 (1 + t)) apart. No v above w / t shares enough: that is w (1 - t) / (2 t).
    reach_ = ratio_ > T(0) ? (T(1) - ratio_) / (T(2) * ratio_) : std::numeric_limits<T>::max();
    measure(boxes, order, first, n, before, kept_count);
    lay_out();
    count_cells(boxes, order, first, n, before, kept_count);
    for (int64_t i = 0; i < kept_count; ++i) {
      const Box<T> box{before.x1[i], before.y1[i], before.x2[i], before.y2[i]};
      insert(box, before.area[i], cell_of(box, before.area[i]));
    }
  }

  bool suppresses(int64_t position, const Box<T>& box, T box_area) const {
    // What suppresses a box is most often in its own cell.
    const uint32_t own = scratch_.cell_of_box[position];
    if (cell_suppresses(own, box, box_area)) return true;
    const T w = box.x2 - box.x1, h = box.y2 - box.y1;
    const T cx = T(0.5) * (box.x1 + box.x2), cy = T(0.5) * (box.y1 + box.y2);
    const int lowest = ratio_ > T(0) ? area_level(maximum(box_area * ratio_, smallest_)) : min_level_;
    const int highest = ratio_ > T(0) ? area_level(minimum(box_area / ratio_, largest_)) : max_level_;
    for (int l = std::max(lowest, min_level_); l <= std::min(highest, max_level_); ++l) {
      const GridLevel<T>& level = levels_[l - min_level_];
      if (level.boxes == 0) continue;
      // Two boxes that touch are nearer than half their widths; the slack covers the rounding of the centres.
      const T dx = minimum(reach_ * w, T(0.5) * (w + level.widest)) + slack_;
      const T dy = minimum(reach_ * h, T(0.5) * (h + level.highest)) + slack_;
      const int64_t left = column_of(level, cx - dx), right = column_of(level, cx + dx);
      const int64_t top = row_of(level, cy - dy), bottom = row_of(level, cy + dy);
      for (int64_t row = top; row <= bottom; ++row) {
        const int64_t first = level.first_cell + row * level.columns;
        for (int64_t cell = first + left; cell <= first + right; ++cell) {
          if (cell != own && cell_suppresses(cell, box, box_area)) return true;
        }
      }
    }
    return false;
  }

  void insert_at(int64_t position, const Box<T>& box, T box_area) {
    insert(box, box_area, scratch_.cell_of_box[position]);
  }

 private:
  bool cell_suppresses(int64_t index, const Box<T>& box, T box_area) const {
    const NmsCell cell = scratch_.cells[index];
    return suppressed_by(kept_, cell.begin, cell.count, box, box_area, low_, threshold_);
  }

  void insert(const Box<T>& box, T box_area, uint32_t index) {
    NmsCell& cell = scratch_.cells[index];
    kept_.put(cell.begin + cell.count++, box, box_area);
  }

  static int64_t clamped(T value, int64_t last) {
    // Compared before it is converted: a float beyond int64 has no conversion.
    return value <= T(0) ? 0 : value >= static_cast<T>(last) ? last : static_cast<int64_t>(value);
  }
  int64_t column_of(const GridLevel<T>& l, T cx) const {
    return clamped((cx - min_x_) * l.cells_per_pixel, l.columns - 1);
  }
  int64_t row_of(const GridLevel<T>& l, T cy) const { return clamped((cy - min_y_) * l.cells_per_pixel, l.rows - 1); }

  uint32_t cell_of(const Box<T>& box, T box_area) const {
    const GridLevel<T>& level = levels_[area_level(box_area) - min_level_];
    const int64_t column = column_of(level, T(0.5) * (box.x1 + box.x2));
    const int64_t row = row_of(level, T(0.5) * (box.y1 + box.y2));
    return static_cast<uint32_t>(level.first_cell + row * level.columns + column);
  }

  template <typename Visit>
  static void for_each(const Box<T>* boxes, const uint32_t* order, int64_t first, int64_t n, const KeptBoxes<T>& before,
                       int64_t kept_count, Visit visit) {
    for (int64_t i = 0; i < kept_count; ++i) {
      visit(Box<T>{before.x1[i], before.y1[i], before.x2[i], before.y2[i]}, before.area[i], int64_t{-1});
    }
    for (int64_t i = first; i < n; ++i) {
      const Box<T> box = boxes[order[i]];
      const T box_area = area(box);
      if (can_overlap(box, box_area)) visit(box, box_area, i);
    }
  }

  // Bounds of the centres, and of the sizes at each level.
  void measure(const Box<T>* boxes, const uint32_t* order, int64_t first, int64_t n, const KeptBoxes<T>& before,
               int64_t kept_count) {
    T max_x = -std::numeric_limits<T>::max(), max_y = max_x;
    min_x_ = min_y_ = std::numeric_limits<T>::max();
    for_each(boxes, order, first, n, before, kept_count, [&](const Box<T>& box, T box_area, int64_t) {
      GridLevel<T>& level = all_levels_[area_level(box_area) - kLowestLevel];
      ++level.boxes;
      level.widest = maximum(level.widest, box.x2 - box.x1);
      level.highest = maximum(level.highest, box.y2 - box.y1);
      min_x_ = minimum(min_x_, T(0.5) * (box.x1 + box.x2));
      min_y_ = minimum(min_y_, T(0.5) * (box.y1 + box.y2));
      max_x = maximum(max_x, T(0.5) * (box.x1 + box.x2));
      max_y = maximum(max_y, T(0.5) * (box.y1 + box.y2));
      smallest_ = minimum(smallest_, box_area);
      largest_ = maximum(largest_, box_area);
    });
    const T farthest = maximum(maximum(std::abs(min_x_), std::abs(max_x)), maximum(std::abs(min_y_), std::abs(max_y)));
    slack_ = T(8) * std::numeric_limits<T>::epsilon() * farthest;
    width_ = max_x - min_x_;
    height_ = max_y - min_y_;
    min_level_ = area_level(smallest_);
    max_level_ = area_level(largest_);
    levels_ = all_levels_ + (min_level_ - kLowestLevel);
  }

  // A cell is four times as wide as the smallest box of its level, or wider where that would give more cells than
  // boxes.
  void lay_out() {
    int64_t cells = 0;
    for (int l = min_level_; l <= max_level_; ++l) {
      GridLevel<T>& level = levels_[l - min_level_];
      if (level.boxes == 0) continue;
      T cell = std::ldexp(T(4), l);
      while ((width_ / cell + 1) * (height_ / cell + 1) > static_cast<T>(level.boxes + 16)) cell *= T(1.5);
      level.cells_per_pixel = T(1) / cell;
      level.columns = static_cast<int64_t>(width_ / cell) + 1;
      level.rows = static_cast<int64_t>(height_ / cell) + 1;
      level.first_cell = cells;
      cells += level.columns * level.rows;
    }
    scratch_.cells.assign(cells, NmsCell{0, 0});
  }

  // Each cell gets as many slots as boxes could be kept in it.
  void count_cells(const Box<T>* boxes, const uint32_t* order, int64_t first, int64_t n, const KeptBoxes<T>& before,
                   int64_t kept_count) {
    scratch_.cell_of_box.resize(n);
    for_each(boxes, order, first, n, before, kept_count, [&](const Box<T>& box, T box_area, int64_t position) {
      const uint32_t cell = cell_of(box, box_area);
      ++scratch_.cells[cell].begin;
      if (position >= 0) scratch_.cell_of_box[position] = cell;
    });
    uint32_t slots = 0;
    for (NmsCell& cell : scratch_.cells) {
      const uint32_t boxes_in_cell = cell.begin;
      cell.begin = slots;
      slots += boxes_in_cell;
    }
    const int64_t padded = slots + nms_block<T>();
    scratch_.kept.resize(5 * padded);
    kept_ = empty_kept(scratch_.kept.data(), padded);
  }

  static constexpr int kLowestLevel = nms_lowest_level<T>();
  static constexpr int kLevels = -2 * kLowestLevel;

  double threshold_;
  T ratio_, reach_, low_;
  T min_x_, min_y_, width_, height_, slack_;
  T smallest_ = std::numeric_limits<T>::max(), largest_ = 0;
  int min_level_, max_level_;
  KeptBoxes<T> kept_;
  GridLevel<T> all_levels_[kLevels];
  GridLevel<T>* levels_;
  NmsScratch<T>& scratch_;
};

// Marks what is kept of the n boxes that `order` lists best first: keep[i] is for position i of the order.
template <typename T>
void nms_greedy(const Box<T>* boxes, const uint32_t* order, int64_t n, double threshold, NmsScratch<T>& scratch,
                uint8_t* keep) {
  constexpr int64_t kList = 256;  // beyond this, a grid is faster than a list
  alignas(64) T memory[5 * (kList + nms_block<T>())];
  const KeptBoxes<T> list = empty_kept(memory, kList + nms_block<T>());
  const T low = nms_low<T>(threshold);
  int64_t kept = 0, i = 0;
  for (; i < n && kept < kList; ++i) {
    const Box<T> box = boxes[order[i]];
    const T box_area = area(box);
    keep[i] = 1;
    if (!can_overlap(box, box_area)) continue;  // suppresses nothing and is suppressed by nothing
    if (suppressed_by(list, 0, kept, box, box_area, low, threshold)) {
      keep[i] = 0;
    } else {
      list.put(kept++, box, box_area);
    }
  }
  if (i == n) return;
  Grid<T> grid(boxes, order, i, n, list, kept, threshold, scratch);
  for (; i < n; ++i) {
    const Box<T> box = boxes[order[i]];
    const T box_area = area(box);
    keep[i] = 1;
    if (!can_overlap(box, box_area)) continue;
    if (grid.suppresses(i, box, box_area)) {
      keep[i] = 0;
    } else {
      grid.insert_at(i, box, box_area);
    }
  }
}

// The definition itself, for a negative threshold and for areas near the ends of what T can hold.
template <typename T>
void nms_exhaustive(const Box<T>* boxes, const uint32_t* order, int64_t n, double threshold, NmsScratch<T>& scratch,
                    uint8_t* keep) {
  scratch.kept.resize(5 * n);
  const KeptBoxes<T> list = empty_kept(scratch.kept.data(), n);
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Box<T> box = boxes[order[i]];
    const T box_area = area(box);
    int hit = 0;
    for (int64_t k = 0; k < kept; ++k) {
      const Box<T> other{list.x1[k], list.y1[k], list.x2[k], list.y2[k]};
      hit |= static_cast<double>(iou(other, list.area[k], box, box_area)) > threshold;
    }
    keep[i] = !hit;
    if (!hit) list.put(kept++, box, box_area);
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
