// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

template <IouKind kind, typename T>
inline IouBox<T> iou_box_of(const Box<T>& b, BoxFormat format) {
  return to_iou_box<kind>(to_xyxy(b.x1, b.y1, b.x2, b.y2, format));
}

// x1, y1, x2, y2, area and angle of n boxes as six runs.
template <IouKind kind, typename T>
void box_iou_columns(const Box<T>* boxes, int64_t n, BoxFormat format, T* __restrict__ columns) {
  for (int64_t i = 0; i < n; ++i) {
    const IouBox<T> b = iou_box_of<kind>(boxes[i], format);
    columns[i] = b.box.x1;
    columns[n + i] = b.box.y1;
    columns[2 * n + i] = b.box.x2;
    columns[3 * n + i] = b.box.y2;
    columns[4 * n + i] = b.area;
    columns[5 * n + i] = b.angle;
  }
}

// `count` rows with the m columns: what is loaded of a column serves all of them.
template <IouKind kind, int count, typename T, typename Out>
PYDET_HD void box_iou_block(const IouBox<T> (&rows)[count], const T* columns, int64_t stride, int64_t m,
                            const IouRules<T>& rules, Out* __restrict__ out) {
  for (int64_t j = 0; j < m; ++j) {
    const IouBox<T> column{{columns[j], columns[stride + j], columns[2 * stride + j], columns[3 * stride + j]},
                           columns[4 * stride + j],
                           columns[5 * stride + j]};
    for (int r = 0; r < count; ++r) out[r * m + j] = static_cast<Out>(pair_iou<kind>(rows[r], column, rules));
  }
}

// n boxes with the m columns, of all runs of `stride`.
template <IouKind kind, typename T, typename Out>
void box_iou_rows(const Box<T>* boxes, int64_t n, BoxFormat format, const T* columns, int64_t stride, int64_t m,
                  IouRules<T> rules, Out* out) {
  int64_t i = 0;
  for (; i + 2 <= n; i += 2) {
    const IouBox<T> rows[2] = {iou_box_of<kind>(boxes[i], format), iou_box_of<kind>(boxes[i + 1], format)};
    box_iou_block<kind>(rows, columns, stride, m, rules, out + i * m);
  }
  if (i < n) {
    const IouBox<T> row[1] = {iou_box_of<kind>(boxes[i], format)};
    box_iou_block<kind>(row, columns, stride, m, rules, out + i * m);
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
