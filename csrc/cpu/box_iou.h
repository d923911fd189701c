// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// n boxes with the m columns; `columns` holds x1, y1, x2, y2, area and angle as six runs of `stride` values.
template <IouKind kind, typename T, typename Out>
void box_iou_rows(const IouBox<T>* rows, int64_t n, const T* columns, int64_t stride, int64_t m, IouRules<T> rules,
                  Out* __restrict__ out) {
  const T* __restrict__ x1 = columns;
  const T* __restrict__ y1 = columns + stride;
  const T* __restrict__ x2 = columns + 2 * stride;
  const T* __restrict__ y2 = columns + 3 * stride;
  const T* __restrict__ areas = columns + 4 * stride;
  const T* __restrict__ angles = columns + 5 * stride;
  for (int64_t i = 0; i < n; ++i) {
    const IouBox<T> row = rows[i];
    Out* __restrict__ out_row = out + i * m;
    for (int64_t j = 0; j < m; ++j) {
      const IouBox<T> column{{x1[j], y1[j], x2[j], y2[j]}, areas[j], angles[j]};
      out_row[j] = static_cast<Out>(pair_iou<kind>(row, column, rules));
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
