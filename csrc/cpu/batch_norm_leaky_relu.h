// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// All of them go through n numbers in lines of `width`, the last one perhaps shorter; what has an index beyond the
// numbers' own is of the columns of a line.

// sums += x
template <typename In, typename T>
void norm_sums(const In* __restrict__ x, int64_t n, int64_t width, T* __restrict__ sums) {
  for (; n > 0; x += width, n -= width) {
    const int64_t columns = n < width ? n : width;
    for (int64_t i = 0; i < columns; ++i) sums[i] += widen(x[i]);
  }
}

// sums += (x - centre)^2
template <typename In, typename T>
void norm_squares(const In* __restrict__ x, int64_t n, int64_t width, const T* __restrict__ centre,
                  T* __restrict__ sums) {
  for (; n > 0; x += width, n -= width) {
    const int64_t columns = n < width ? n : width;
    for (int64_t i = 0; i < columns; ++i) {
      const T off = widen(x[i]) - centre[i];
      sums[i] += off * off;
    }
  }
}

template <typename In, typename T>
void norm_apply(const In* __restrict__ x, int64_t n, int64_t width, const NormColumns<T> of, T slope,
                In* __restrict__ out) {
  const T* __restrict__ mean = of.mean, * __restrict__ scale = of.scale, * __restrict__ bias = of.bias;
  for (; n > 0; x += width, out += width, n -= width) {
    const int64_t columns = n < width ? n : width;
    for (int64_t i = 0; i < columns; ++i) {
      out[i] = narrowed<In>(leaky_relu(normalised(widen(x[i]), mean[i], scale[i], bias[i]), slope));
    }
  }
}

// sums += g and products += g (x - mean), g being the gradient by what is normalised
template <typename In, typename T>
void norm_gradient_sums(const In* __restrict__ x, const In* __restrict__ grad, int64_t n, int64_t width,
                        const NormColumns<T> of, T slope, T* __restrict__ sums, T* __restrict__ products) {
  const T* __restrict__ mean = of.mean, * __restrict__ scale = of.scale, * __restrict__ bias = of.bias;
  for (; n > 0; x += width, grad += width, n -= width) {
    const int64_t columns = n < width ? n : width;
    for (int64_t i = 0; i < columns; ++i) {
      const T number = widen(x[i]);
      const T g = leaky_relu_gradient(normalised(number, mean[i], scale[i], bias[i]), widen(grad[i]), slope);
      sums[i] += g;
      products[i] += g * (number - mean[i]);
    }
  }
}

// scale g + by_offset (x - mean) + constant
template <typename In, typename T>
void norm_gradient(const In* __restrict__ x, const In* __restrict__ grad, int64_t n, int64_t width,
                   const NormColumns<T> of, const T* __restrict__ by_offset, const T* __restrict__ constant, T slope,
                   In* __restrict__ out) {
  const T* __restrict__ mean = of.mean, * __restrict__ scale = of.scale, * __restrict__ bias = of.bias;
  for (; n > 0; x += width, grad += width, out += width, n -= width) {
    const int64_t columns = n < width ? n : width;
    for (int64_t i = 0; i < columns; ++i) {
      const T number = widen(x[i]);
      const T g = leaky_relu_gradient(normalised(number, mean[i], scale[i], bias[i]), widen(grad[i]), slope);
      out[i] = narrowed<In>(scale[i] * g + (by_offset[i] * (number - mean[i]) + constant[i]));
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
