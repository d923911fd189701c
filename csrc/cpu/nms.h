// Greedy non-maximum suppression of one class. No include guard: compiled once per instruction set, see cpu_levels.h.
//
// Boxes are visited best score first and compared with the boxes kept so far, a block of kept boxes at a time. While
// few are kept they stand in one list. Beyond that they stand in a grid, and only cells are visited in which a box with
// enough overlap can lie, so that the cost grows with the overlaps and not with the square of the number of boxes.
namespace pydet {
namespace PYDET_LEVEL {

// A place that is not taken holds a box that overlaps nothing, so that whole blocks can be tested.
template <typename T>
inline void put(NmsBlock<T>* blocks, int64_t slot, const Box<T>& b, T b_area) {
  constexpr int64_t kBoxes = NmsBlock<T>::kBoxes;
  NmsBlock<T>& block = blocks[slot / kBoxes];
  const int64_t lane = slot % kBoxes;
  if (lane == 0) {
    const T infinity = std::numeric_limits<T>::infinity();
    std::fill(block.x1, block.x1 + 2 * kBoxes, infinity);
    std::fill(block.x2, block.x2 + 2 * kBoxes, -infinity);
    std::fill(block.area, block.area + kBoxes, T(1));
  }
  block.x1[lane] = b.x1;
  block.y1[lane] = b.y1;
  block.x2[lane] = b.x2;
  block.y2[lane] = b.y2;
  block.area[lane] = b_area;
}

template <typename T>
inline Box<T> box_at(const NmsBlock<T>& block, int64_t lane) {
  return {block.x1[lane], block.y1[lane], block.x2[lane], block.y2[lane]};
}

// Bit k is set where box k of the block may suppress the box: inter > low * union is true for every IoU above the
// threshold, because low is below it by more than the product can round. The division is left to those.
template <typename T>
inline uint32_t close_ones(const NmsBlock<T>& block, const Box<T>& box, T box_area, T low) {
  uint32_t close = 0;
  for (int64_t k = 0; k < NmsBlock<T>::kBoxes; ++k) {
    const T overlap = intersection(box, box_at(block, k));
    close |= static_cast<uint32_t>(overlap > low * (block.area[k] + box_area - overlap)) << k;
  }
  return close;
}

// The compiler vectorises the loop above but not what gathers the bits, which instructions exist for.
#if defined(PYDET_LEVEL_IS_AVX512)
inline uint32_t close_ones(const NmsBlock<float>& block, const Box<float>& box, float box_area, float low) {
  const __m512 left = _mm512_max_ps(_mm512_load_ps(block.x1), _mm512_set1_ps(box.x1));
  const __m512 top = _mm512_max_ps(_mm512_load_ps(block.y1), _mm512_set1_ps(box.y1));
  const __m512 right = _mm512_min_ps(_mm512_load_ps(block.x2), _mm512_set1_ps(box.x2));
  const __m512 bottom = _mm512_min_ps(_mm512_load_ps(block.y2), _mm512_set1_ps(box.y2));
  const __m512 w = _mm512_max_ps(_mm512_sub_ps(right, left), _mm512_setzero_ps());
  const __m512 h = _mm512_max_ps(_mm512_sub_ps(bottom, top), _mm512_setzero_ps());
  const __m512 overlap = _mm512_mul_ps(w, h);
  const __m512 both = _mm512_add_ps(_mm512_load_ps(block.area), _mm512_set1_ps(box_area));
  const __m512 bound = _mm512_mul_ps(_mm512_sub_ps(both, overlap), _mm512_set1_ps(low));
  return _mm512_cmp_ps_mask(overlap, bound, _CMP_GT_OQ);
}
#elif defined(PYDET_LEVEL_IS_AVX2)
inline uint32_t close_ones(const NmsBlock<float>& block, const Box<float>& box, float box_area, float low) {
  uint32_t close = 0;
  for (int k = 0; k < 16; k += 8) {
    const __m256 left = _mm256_max_ps(_mm256_load_ps(block.x1 + k), _mm256_set1_ps(box.x1));
    const __m256 top = _mm256_max_ps(_mm256_load_ps(block.y1 + k), _mm256_set1_ps(box.y1));
    const __m256 right = _mm256_min_ps(_mm256_load_ps(block.x2 + k), _mm256_set1_ps(box.x2));
    const __m256 bottom = _mm256_min_ps(_mm256_load_ps(block.y2 + k), _mm256_set1_ps(box.y2));
    const __m256 w = _mm256_max_ps(_mm256_sub_ps(right, left), _mm256_setzero_ps());
    const __m256 h = _mm256_max_ps(_mm256_sub_ps(bottom, top), _mm256_setzero_ps());
    const __m256 overlap = _mm256_mul_ps(w, h);
    const __m256 both = _mm256_add_ps(_mm256_load_ps(block.area + k), _mm256_set1_ps(box_area));
    const __m256 bound = _mm256_mul_ps(_mm256_sub_ps(both, overlap), _mm256_set1_ps(low));
    close |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(overlap, bound, _CMP_GT_OQ))) << k;
  }
  return close;
}
#endif

// Whether one of `count` kept boxes suppresses the box.
template <typename T>
inline bool suppressed_by(const NmsBlock<T>* block, int64_t count, const Box<T>& box, T box_area, T low,
                          double threshold) {
  for (; count > 0; count -= NmsBlock<T>::kBoxes, ++block) {
    for (uint32_t close = close_ones(*block, box, box_area, low); close != 0; close &= close - 1) {
      const int64_t k = __builtin_ctz(close);
      if (static_cast<double>(iou(box_at(*block, k), block->area[k], box, box_area)) > threshold) return true;
    }
  }
  return false;
}

// Cells for boxes of similar area: level l holds areas in [4^l, 4^(l+1)).
template <typename T>
struct GridLevel {
  int64_t boxes = 0;
  int64_t first_cell = 0;
  int64_t columns = 1;
  T last_column = 0, last_row = 0;
  T cells_per_pixel = 0;
  T widest = 0, highest = 0;
};

template <typename T>
class Grid {
 public:
  // Takes the ranked boxes from position `first` on, and the `kept_count` boxes that were kept before it.
  Grid(const Box<T>* ranked, int64_t first, int64_t n, const NmsBlock<T>* before, int64_t kept_count, double threshold,
       NmsScratch<T>& scratch)
      : threshold_(threshold), ratio_(static_cast<T>(std::min(threshold, 1.0) * 0.999)), scratch_(scratch) {
    low_ = nms_low<T>(threshold);
    // With IoU t and equal heights, boxes of widths w and v share at least t (w + v) / (1 + t), so that their centres
    // are at most (w + v) (1 - t) / (2 (1 + t)) apart. No v above w / t shares enough: that is w (1 - t) / (2 t).
    reach_ = ratio_ > T(0) ? (T(1) - ratio_) / (T(2) * ratio_) : std::numeric_limits<T>::max();
    // Those kept before are put where their cells are known: in front of the others.
    const auto for_each = [&](const auto& visit) {
      for (int64_t i = 0; i < kept_count; ++i) {
        const NmsBlock<T>& block = before[i / NmsBlock<T>::kBoxes];
        const int64_t lane = i % NmsBlock<T>::kBoxes;
        visit(box_at(block, lane), block.area[lane], first - kept_count + i);
      }
      for (int64_t i = first; i < n; ++i) {
        const T box_area = area(ranked[i]);
        if (can_overlap(ranked[i], box_area)) visit(ranked[i], box_area, i);
      }
    };
    measure(for_each);
    lay_out();
    count_cells(n, for_each);
    for (int64_t i = 0; i < kept_count; ++i) {
      const NmsBlock<T>& block = before[i / NmsBlock<T>::kBoxes];
      const int64_t lane = i % NmsBlock<T>::kBoxes;
      insert(first - kept_count + i, box_at(block, lane), block.area[lane]);
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

  void insert(int64_t position, const Box<T>& box, T box_area) {
    NmsCell& cell = scratch_.cells[scratch_.cell_of_box[position]];
    put(scratch_.kept.data() + cell.first_block, cell.count++, box, box_area);
  }

 private:
  bool cell_suppresses(int64_t index, const Box<T>& box, T box_area) const {
    const NmsCell cell = scratch_.cells[index];
    return suppressed_by(scratch_.kept.data() + cell.first_block, cell.count, box, box_area, low_, threshold_);
  }

  int64_t column_of(const GridLevel<T>& l, T cx) const {
    return static_cast<int32_t>(bounded((cx - min_x_) * l.cells_per_pixel, T(0), l.last_column));
  }
  int64_t row_of(const GridLevel<T>& l, T cy) const {
    return static_cast<int32_t>(bounded((cy - min_y_) * l.cells_per_pixel, T(0), l.last_row));
  }

  uint32_t cell_of(const Box<T>& box, T box_area) const {
    const GridLevel<T>& level = levels_[area_level(box_area) - min_level_];
    const int64_t column = column_of(level, T(0.5) * (box.x1 + box.x2));
    const int64_t row = row_of(level, T(0.5) * (box.y1 + box.y2));
    return static_cast<uint32_t>(level.first_cell + row * level.columns + column);
  }

  // Bounds of the centres, and of the sizes at each level.
  template <typename ForEach>
  void measure(const ForEach& for_each) {
    T min_x = std::numeric_limits<T>::max(), min_y = min_x, smallest = min_x;
    T max_x = -min_x, max_y = -min_x, largest = 0;
    for_each([&](const Box<T>& box, T box_area, int64_t) {
      // Tests, not maxima: a maximum is hardly ever replaced, and one that is stored again delays the next box.
      GridLevel<T>& level = all_levels_[area_level(box_area) - kLowestLevel];
      ++level.boxes;
      if (box.x2 - box.x1 > level.widest) level.widest = box.x2 - box.x1;
      if (box.y2 - box.y1 > level.highest) level.highest = box.y2 - box.y1;
      const T x = T(0.5) * (box.x1 + box.x2), y = T(0.5) * (box.y1 + box.y2);
      min_x = minimum(min_x, x);
      min_y = minimum(min_y, y);
      max_x = maximum(max_x, x);
      max_y = maximum(max_y, y);
      smallest = minimum(smallest, box_area);
      largest = maximum(largest, box_area);
    });
    const T farthest = maximum(maximum(std::abs(min_x), std::abs(max_x)), maximum(std::abs(min_y), std::abs(max_y)));
    slack_ = T(8) * std::numeric_limits<T>::epsilon() * farthest;
    min_x_ = min_x;
    min_y_ = min_y;
    width_ = max_x - min_x;
    height_ = max_y - min_y;
    smallest_ = smallest;
    largest_ = largest;
    min_level_ = area_level(smallest);
    max_level_ = area_level(largest);
    levels_ = all_levels_ + (min_level_ - kLowestLevel);
  }

  // A cell is three times as wide as the smallest box of its level, or wider where that would give fewer than
  // kBoxesACell boxes to a cell: a block takes more at once.
  void lay_out() {
    int64_t cells = 0;
    for (int l = min_level_; l <= max_level_; ++l) {
      GridLevel<T>& level = levels_[l - min_level_];
      if (level.boxes == 0) continue;
      T cell = std::ldexp(T(3), l);
      const T most = static_cast<T>(level.boxes / kBoxesACell + 16);
      while ((width_ / cell + 1) * (height_ / cell + 1) > most) cell *= T(1.25);
      level.cells_per_pixel = T(1) / cell;
      level.last_column = minimum(std::floor(width_ / cell), kMostCells);
      level.last_row = minimum(std::floor(height_ / cell), kMostCells);
      level.columns = static_cast<int64_t>(level.last_column) + 1;
      level.first_cell = cells;
      cells += level.columns * (static_cast<int64_t>(level.last_row) + 1);
    }
    scratch_.cells.assign(cells, NmsCell{0, 0});
  }

  // Each cell gets as many blocks as could be kept in it.
  template <typename ForEach>
  void count_cells(int64_t n, const ForEach& for_each) {
    scratch_.cell_of_box.resize(n);
    for_each([&](const Box<T>& box, T box_area, int64_t position) {
      const uint32_t cell = cell_of(box, box_area);
      ++scratch_.cells[cell].first_block;
      scratch_.cell_of_box[position] = cell;
    });
    constexpr uint32_t kBoxes = NmsBlock<T>::kBoxes;
    uint32_t blocks = 0;
    for (NmsCell& cell : scratch_.cells) {
      const uint32_t boxes_in_cell = cell.first_block;
      cell.first_block = blocks;
      blocks += (boxes_in_cell + kBoxes - 1) / kBoxes;
    }
    if (scratch_.kept.size() < blocks) scratch_.kept = std::vector<NmsBlock<T>>(blocks);
  }

  static constexpr int kLowestLevel = nms_lowest_level<T>();
  static constexpr int kLevels = -2 * kLowestLevel;
  static constexpr int64_t kBoxesACell = 8;
  static constexpr T kMostCells = T(1 << 23);  // in a row: whole numbers up to here are exact

  double threshold_;
  T ratio_, reach_, low_;
  T min_x_, min_y_, width_, height_, slack_;
  T smallest_, largest_;
  int min_level_, max_level_;
  GridLevel<T> all_levels_[kLevels];
  GridLevel<T>* levels_;
  NmsScratch<T>& scratch_;
};

// Marks what is kept of n boxes, best first: keep[i] is for ranked[i].
template <typename T>
void nms_greedy(const Box<T>* ranked, int64_t n, double threshold, NmsScratch<T>& scratch, uint8_t* keep) {
  constexpr int64_t kList = 256;  // beyond this, a grid is faster than a list
  NmsBlock<T> list[kList / NmsBlock<T>::kBoxes];
  const T low = nms_low<T>(threshold);
  int64_t kept = 0, i = 0;
  for (; i < n && kept < kList; ++i) {
    const T box_area = area(ranked[i]);
    keep[i] = 1;
    if (!can_overlap(ranked[i], box_area)) continue;  // suppresses nothing and is suppressed by nothing
    if (suppressed_by(list, kept, ranked[i], box_area, low, threshold)) {
      keep[i] = 0;
    } else {
      put(list, kept++, ranked[i], box_area);
    }
  }
  if (i == n) return;
  Grid<T> grid(ranked, i, n, list, kept, threshold, scratch);
  for (; i < n; ++i) {
    const T box_area = area(ranked[i]);
    keep[i] = 1;
    if (!can_overlap(ranked[i], box_area)) continue;
    if (grid.suppresses(i, ranked[i], box_area)) {
      keep[i] = 0;
    } else {
      grid.insert(i, ranked[i], box_area);
    }
  }
}

// The definition itself, for a negative threshold and for areas near the ends of what T can hold.
template <typename T>
void nms_exhaustive(const Box<T>* ranked, int64_t n, double threshold, NmsScratch<T>& scratch, uint8_t* keep) {
  constexpr int64_t kBoxes = NmsBlock<T>::kBoxes;
  scratch.kept.resize((n + kBoxes - 1) / kBoxes);
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T box_area = area(ranked[i]);
    int hit = 0;
    for (int64_t first = 0; first < kept && !hit; first += kBoxes) {
      const NmsBlock<T>& block = scratch.kept[first / kBoxes];
      for (int64_t k = 0; k < std::min(kBoxes, kept - first); ++k) {
        hit |= static_cast<double>(iou(box_at(block, k), block.area[k], ranked[i], box_area)) > threshold;
      }
    }
    keep[i] = !hit;
    if (!hit) put(scratch.kept.data(), kept++, ranked[i], box_area);
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
