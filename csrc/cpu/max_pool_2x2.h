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

}  // namespace PYDET_LEVEL
}  // namespace pydet
