// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

template <typename T>
PYDET_HD void decode_one(const T* __restrict__ code, const T* __restrict__ box, const CodeWeights<T>& weights, T clip,
                         T* __restrict__ out) {
  const Span<T> x = decode_axis<T>({code[0], code[2]}, {box[0], box[2]}, weights.x, clip);
  const Span<T> y = decode_axis<T>({code[1], code[3]}, {box[1], box[3]}, weights.y, clip);
  out[0] = x.low;
  out[1] = y.low;
  out[2] = x.high;
  out[3] = y.high;
}

// n boxes, each with `classes` codes. Vectors run over boxes where there is one code a box, else over classes.
template <typename T>
void decode_rows(const T* __restrict__ codes, const T* __restrict__ boxes, int64_t n, int64_t classes,
                 const CodeWeights<T> weights, T clip, T* __restrict__ out) {
  if (classes == 1) {
    for (int64_t i = 0; i < 4 * n; i += 4) decode_one(codes + i, boxes + i, weights, clip, out + i);
    return;
  }
  for (int64_t i = 0; i < n; ++i, codes += 4 * classes, out += 4 * classes) {
    const T box[4] = {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
    for (int64_t k = 0; k < 4 * classes; k += 4) decode_one(codes + k, box, weights, clip, out + k);
  }
}

template <typename T>
PYDET_HD Box<T> decode_one_gradient(const T* __restrict__ grad, const T* __restrict__ code, const T* __restrict__ box,
                                    const CodeWeights<T>& weights, T clip, T* __restrict__ grad_code) {
  const DecodeGradient<T> x =
      decode_axis_gradient<T>({code[0], code[2]}, {box[0], box[2]}, weights.x, clip, {grad[0], grad[2]});
  const DecodeGradient<T> y =
      decode_axis_gradient<T>({code[1], code[3]}, {box[1], box[3]}, weights.y, clip, {grad[1], grad[3]});
  grad_code[0] = x.code.centre;
  grad_code[1] = y.code.centre;
  grad_code[2] = x.code.size;
  grad_code[3] = y.code.size;
  return {x.box.low, y.box.low, x.box.high, y.box.high};
}

// The codes of one box share its gradient. Vectors run over boxes where there is one code a box.
template <typename T>
void decode_rows_gradient(const T* __restrict__ grads, const T* __restrict__ codes, const T* __restrict__ boxes,
                          int64_t n, int64_t classes, const CodeWeights<T> weights, T clip, T* __restrict__ grad_codes,
                          T* __restrict__ grad_boxes) {
  if (classes == 1) {
    for (int64_t i = 0; i < 4 * n; i += 4) {
      const Box<T> g = decode_one_gradient(grads + i, codes + i, boxes + i, weights, clip, grad_codes + i);
      grad_boxes[i] = g.x1;
      grad_boxes[i + 1] = g.y1;
      grad_boxes[i + 2] = g.x2;
      grad_boxes[i + 3] = g.y2;
    }
    return;
  }
  for (int64_t i = 0; i < 4 * n; i += 4) {
    Box<T> sum{0, 0, 0, 0};
    for (int64_t k = i * classes; k < (i + 4) * classes; k += 4) {
      const Box<T> g = decode_one_gradient(grads + k, codes + k, boxes + i, weights, clip, grad_codes + k);
      sum = {sum.x1 + g.x1, sum.y1 + g.y1, sum.x2 + g.x2, sum.y2 + g.y2};
    }
    grad_boxes[i] = sum.x1;
    grad_boxes[i + 1] = sum.y1;
    grad_boxes[i + 2] = sum.x2;
    grad_boxes[i + 3] = sum.y2;
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
