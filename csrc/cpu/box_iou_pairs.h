// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

constexpr int64_t kPairs = 256;  // pairs at a time, as columns in the first cache

// x1, y1, x2, y2 of `count` boxes in any format as four runs.
template <typename T>
inline void split_corners(const Box<T>* boxes, int64_t count, BoxFormat format, T (&columns)[4][kPairs]) {
  for (int64_t i = 0; i < count; ++i) {
    columns[0][i] = boxes[i].x1;
    columns[1][i] = boxes[i].y1;
    columns[2][i] = boxes[i].x2;
    columns[3][i] = boxes[i].y2;
  }
  if (format == BoxFormat::xyxy) return;
  for (int64_t i = 0; i < count; ++i) {
    const Box<T> corners = to_xyxy(columns[0][i], columns[1][i], columns[2][i], columns[3][i], format);
    columns[0][i] = corners.x1, columns[1][i] = corners.y1, columns[2][i] = corners.x2, columns[3][i] = corners.y2;
  }
}

// out[i] = similarity of the boxes at i, or 1 less that.
template <IouKind kind, typename T, typename Out>
void box_iou_pairs(const Box<T>* boxes1, const Box<T>* boxes2, int64_t n, PairRules<T> rules, Out* __restrict__ out) {
  for (int64_t begin = 0; begin < n; begin += kPairs) {
    const int64_t count = n - begin < kPairs ? n - begin : kPairs;
    T a[4][kPairs], b[4][kPairs], similarity[kPairs];
    split_corners(boxes1 + begin, count, rules.format, a);
    split_corners(boxes2 + begin, count, rules.format, b);
    for (int64_t i = 0; i < count; ++i) {
      const IouBox<T> first = to_iou_box<kind>(Box<T>{a[0][i], a[1][i], a[2][i], a[3][i]});
      const IouBox<T> second = to_iou_box<kind>(Box<T>{b[0][i], b[1][i], b[2][i], b[3][i]});
      similarity[i] = pair_iou<kind>(first, second, rules.iou);
    }
    const T from = rules.loss ? T(1) : T(0), sign = rules.loss ? T(-1) : T(1);
    for (int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<Out>(from + sign * similarity[i]);
  }
}

// Gradients of both boxes of each pair; pair i has the gradient scale * gradients[i * stride].
template <IouKind kind, typename T>
void box_iou_pairs_backward(const Box<T>* boxes1, const Box<T>* boxes2, int64_t n, PairRules<T> rules,
                            const T* gradients, int64_t stride, T scale, Box<T>* out1, Box<T>* out2) {
  for (int64_t begin = 0; begin < n; begin += kPairs) {
    const int64_t count = n - begin < kPairs ? n - begin : kPairs;
    T a[4][kPairs], b[4][kPairs], ga[4][kPairs], gb[4][kPairs], of_pairs[kPairs];
    split_corners(boxes1 + begin, count, rules.format, a);
    split_corners(boxes2 + begin, count, rules.format, b);
    const T factor = rules.loss ? -scale : scale;
    for (int64_t i = 0; i < count; ++i) of_pairs[i] = factor * gradients[(begin + i) * stride];
    for (int64_t i = 0; i < count; ++i) {
      const IouBox<T> first = to_iou_box<kind>(Box<T>{a[0][i], a[1][i], a[2][i], a[3][i]});
      const IouBox<T> second = to_iou_box<kind>(Box<T>{b[0][i], b[1][i], b[2][i], b[3][i]});
      const IouGradient<T> g = pair_iou_gradient<kind>(first, second, rules.iou, of_pairs[i]);
      const Box<T> of_first = corner_gradient<kind>(first.box, g.a, g.area_a, g.angle);
      const Box<T> of_second = corner_gradient<kind>(second.box, g.b, g.area_b, -g.angle);
      ga[0][i] = of_first.x1, ga[1][i] = of_first.y1, ga[2][i] = of_first.x2, ga[3][i] = of_first.y2;
      gb[0][i] = of_second.x1, gb[1][i] = of_second.y1, gb[2][i] = of_second.x2, gb[3][i] = of_second.y2;
    }
    for (int64_t i = 0; i < count; ++i) {
      out1[begin + i] = from_xyxy_gradient(Box<T>{ga[0][i], ga[1][i], ga[2][i], ga[3][i]}, rules.format);
      out2[begin + i] = from_xyxy_gradient(Box<T>{gb[0][i], gb[1][i], gb[2][i], gb[3][i]}, rules.format);
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
