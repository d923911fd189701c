// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// IoU of n boxes with the m columns; `columns` holds x1, y1, x2, y2 and area as five runs of `stride` values.
template <typename T, typename Out>
void box_iou_rows(const Box<T>* rows, int64_t n, const T* columns, int64_t stride, int64_t m, Out* __restrict__ out) {
  const T* __restrict__ x1 = columns;
  const T* __restrict__ y1 = columns + stride;
  const T* __restrict__ x2 = columns + 2 * stride;
  const T* __restrict__ y2 = columns + 3 * stride;
  const T* __restrict__ areas = columns + 4 * stride;
  for (int64_t i = 0; i < n; ++i) {
    const Box<T> row = rows[i];
    const T row_area = area(row);
    Out* __restrict__ out_row = out + i * m;
    for (int64_t j = 0; j < m; ++j) {
      out_row[j] = static_cast<Out>(iou(row, row_area, Box<T>{x1[j], y1[j], x2[j], y2[j]}, areas[j]));
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
