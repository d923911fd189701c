// A part of conv.h: what becomes of a sum.
namespace pydet {
namespace PYDET_LEVEL {

// A ReLU of -inf is 0, which a product is not.
PYDET_HD Floats activated(Floats x, float slope) { return where_below_0(x, slope == 0 ? all(0) : x * all(slope), x); }

// The bias and the activation. Of the last vector some are of no filter.
template <typename T>
PYDET_HD void finish(const Conv<T>& conv, Floats sum, int64_t filter, T* pixel) {
  const Floats x = activated(sum + load(conv.bias + filter), conv.slope);
  const int64_t left = conv.filters - filter;
  if (left >= kFloats) {
    store(x, pixel + filter);
  } else if (left > 0) {
    T numbers[kFloats];
    store(x, numbers);
    memcpy(pixel + filter, numbers, static_cast<size_t>(left) * sizeof(T));
  }
}

// The 2 x 2 sums from (y, x) on, without those beyond the last row and column. What keeps order keeps the largest.
template <typename T>
PYDET_HD void finish_window(const Conv<T>& conv, const ConvWindow& at, int64_t filter, const Floats (&sums)[2][2]) {
  const bool right = at.x + 1 < conv.columns, below = at.y + 1 < conv.rows;
  if (conv.pools) {
    const Floats first = right ? largest(sums[0][0], sums[0][1]) : sums[0][0];
    const Floats second = right ? largest(sums[1][0], sums[1][1]) : sums[1][0];
    finish(conv, below ? largest(first, second) : first, filter, conv.out_pixel(at.image, at.y / 2, at.x / 2));
    return;
  }
  T* pixel = conv.out_pixel(at.image, at.y, at.x);
  T* pixel_below = pixel + conv.columns * conv.filters;
  finish(conv, sums[0][0], filter, pixel);
  if (right) finish(conv, sums[0][1], filter, pixel + conv.filters);
  if (below) finish(conv, sums[1][0], filter, pixel_below);
  if (right && below) finish(conv, sums[1][1], filter, pixel_below + conv.filters);
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
