// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

template <typename T>
void encode_rows(const T* __restrict__ targets, const T* __restrict__ boxes, int64_t n, const CodeWeights<T> weights,
                 T* __restrict__ codes) {
  for (int64_t i = 0; i < 4 * n; i += 4) {
    const AxisCode<T> x = encode_axis<T>({targets[i], targets[i + 2]}, {boxes[i], boxes[i + 2]}, weights.x);
    const AxisCode<T> y = encode_axis<T>({targets[i + 1], targets[i + 3]}, {boxes[i + 1], boxes[i + 3]}, weights.y);
    codes[i] = x.centre;
    codes[i + 1] = y.centre;
    codes[i + 2] = x.size;
    codes[i + 3] = y.size;
  }
}

template <typename T>
void encode_rows_gradient(const T* __restrict__ grads, const T* __restrict__ targets, const T* __restrict__ boxes,
                          int64_t n, const CodeWeights<T> weights, T* __restrict__ grad_targets,
                          T* __restrict__ grad_boxes) {
  for (int64_t i = 0; i < 4 * n; i += 4) {
    for (int64_t axis = 0; axis < 2; ++axis) {
      const int64_t low = i + axis, high = low + 2;
      const EncodeGradient<T> g = encode_axis_gradient<T>({targets[low], targets[high]}, {boxes[low], boxes[high]},
                                                          axis == 0 ? weights.x : weights.y, {grads[low], grads[high]});
      grad_targets[low] = g.target.low;
      grad_targets[high] = g.target.high;
      grad_boxes[low] = g.box.low;
      grad_boxes[high] = g.box.high;
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
