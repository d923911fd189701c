// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

template <typename T>
PYDET_HD void pool_channels(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ c,
                            const T* __restrict__ d, int64_t channels, T* __restrict__ out) {
  for (int64_t i = 0; i < channels; ++i) out[i] = pooled(a[i], b[i], c[i], d[i]);
}

// One row of the output, [width, channels], of two rows of x; `below` is `above` where there is no row below.
template <typename T>
void max_pool_row(const PoolShape& shape, const T* __restrict__ above, const T* __restrict__ below,
                  T* __restrict__ out) {
  for (int64_t column = 0; column < shape.out_width; ++column, out += shape.channels) {
    const int64_t left = column * shape.step * shape.pixel_stride;
    const int64_t right = column * shape.step + 1 < shape.width ? left + shape.pixel_stride : left;
    // Whole vectors, whose number the compiler knows, then the rest.
    int64_t c = 0;
    for (; c + kPooledAtOnce <= shape.channels; c += kPooledAtOnce) {
      pool_channels(above + left + c, above + right + c, below + left + c, below + right + c, kPooledAtOnce, out + c);
    }
    pool_channels(above + left + c, above + right + c, below + left + c, below + right + c, shape.channels - c,
                  out + c);
  }
}

template <typename T, typename Bits>
PYDET_HD void pool_channel_gradients(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ c,
                                     const T* __restrict__ d, const T* __restrict__ grad, int64_t channels,
                                     Bits* __restrict__ of_a, Bits* __restrict__ of_b, Bits* __restrict__ of_c,
                                     Bits* __restrict__ of_d) {
  for (int64_t i = 0; i < channels; ++i) {
    const auto g = pool_gradient<T>({a[i], b[i], c[i], d[i]}, grad[i]);
    of_a[i] = g.a;
    of_b[i] = g.b;
    of_c[i] = g.c;
    of_d[i] = g.d;
  }
}

// What a row of the gradient, [out_width, channels], gives to two rows; null where they were not pooled. `trash` has
// room for two pixels, beyond the last column.
template <typename T, typename Bits>
void max_pool_gradient_row(const PoolShape& shape, const T* above, const T* below, const T* grad, Bits* out_above,
                           Bits* out_below, Bits* trash) {
  const int64_t channels = shape.channels;
  for (int64_t column = 0; column < shape.width; column += 2) {
    const bool alone = column + 1 == shape.width;
    const int64_t left = column * channels, right = alone ? left : left + channels;
    if (grad == nullptr || column / 2 >= shape.out_width) {
      for (int64_t i = left; i < right + channels; ++i) out_above[i] = out_below[i] = 0;
      continue;
    }
    const T* of_window = grad + column / 2 * channels;
    Bits* right_above = alone ? trash : out_above + right;
    Bits* right_below = alone ? trash + channels : out_below + right;
    const auto pass_on = [&](int64_t c, int64_t count) {
      pool_channel_gradients(above + left + c, above + right + c, below + left + c, below + right + c, of_window + c,
                             count, out_above + left + c, right_above + c, out_below + left + c, right_below + c);
    };
    int64_t c = 0;
    for (; c + kPooledAtOnce <= channels; c += kPooledAtOnce) pass_on(c, kPooledAtOnce);
    pass_on(c, channels - c);
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
