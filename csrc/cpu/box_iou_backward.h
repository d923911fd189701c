// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// A row's sums are kept in as many parts at every instruction set: a vector's lanes, and the same bits everywhere.
constexpr int64_t kLanes = 16;
constexpr int64_t kTile = 1024;  // columns whose boxes and sums stay in the first cache while rows pass by

// One row with `count` columns of a tile from k on: adds to the sums (x1, y1, x2, y2, area, angle) of the row and of
// the columns. Arrays of fixed size, so that the compiler sees that their runs do not overlap.
template <IouKind kind, typename T>
PYDET_HD void box_iou_backward_block(const IouBox<T>& row, const T* __restrict__ columns, int64_t stride,
                                     const IouRules<T>& rules, const T* __restrict__ gradients, int64_t k,
                                     int64_t count, T (&row_sums)[6][kLanes], T (&column_sums)[6][kTile]) {
  for (int64_t lane = 0; lane < count; ++lane, ++k) {
    const IouBox<T> column{{columns[k], columns[stride + k], columns[2 * stride + k], columns[3 * stride + k]},
                           columns[4 * stride + k],
                           columns[5 * stride + k]};
    const IouGradient<T> g = pair_iou_gradient<kind>(row, column, rules, gradients[k]);
    row_sums[0][lane] += g.a.x1;
    row_sums[1][lane] += g.a.y1;
    row_sums[2][lane] += g.a.x2;
    row_sums[3][lane] += g.a.y2;
    row_sums[4][lane] += g.area_a;
    column_sums[0][k] += g.b.x1;
    column_sums[1][k] += g.b.y1;
    column_sums[2][k] += g.b.x2;
    column_sums[3][k] += g.b.y2;
    column_sums[4][k] += g.area_b;
    if (kind == IouKind::complete) {
      row_sums[5][lane] += g.angle;
      column_sums[5][k] -= g.angle;
    }
  }
}

// n rows with the m columns. Writes the sums of the rows, six a row, and those of the columns, six runs of m. Both must
// be 0 at the start.
template <IouKind kind, typename T>
void box_iou_backward_rows(const IouBox<T>* rows, int64_t n, const T* columns, int64_t stride, int64_t m,
                           IouRules<T> rules, const T* gradients, T* row_sums, T* column_sums) {
  for (int64_t begin = 0; begin < m; begin += kTile) {
    const int64_t count = begin + kTile < m ? kTile : m - begin;
    T of_columns[6][kTile] = {};
    for (int64_t i = 0; i < n; ++i) {
      T of_row[6][kLanes] = {};
      const T* of_pairs = gradients + i * m + begin;
      int64_t k = 0;
      for (; k + kLanes <= count; k += kLanes) {
        box_iou_backward_block<kind>(rows[i], columns + begin, stride, rules, of_pairs, k, kLanes, of_row, of_columns);
      }
      box_iou_backward_block<kind>(rows[i], columns + begin, stride, rules, of_pairs, k, count - k, of_row, of_columns);
      for (int64_t part = 0; part < 6; ++part) {
        for (int64_t lane = 0; lane < kLanes; ++lane) row_sums[6 * i + part] += of_row[part][lane];
      }
    }
    for (int64_t part = 0; part < 6; ++part) {
      for (int64_t k = 0; k < count; ++k) column_sums[part * m + begin + k] = of_columns[part][k];
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
