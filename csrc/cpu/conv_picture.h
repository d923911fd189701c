// A part of conv.h: of pictures, whose few channels fill no vector.
namespace pydet {
namespace PYDET_LEVEL {

// So that there are registers for four sums of each, and for the weights.
template <int kVectors>
constexpr int kPictureWindows = kMaxVectors == 2 || kVectors == 4 ? 1
                                : kVectors == 3                   ? 2
                                                                  : 3;

// Rows of x from `first` on, some above and below it, with their margins.
template <typename T>
void pad_rows(const Conv<T>& conv, int64_t image, int64_t first, int64_t rows, T* out) {
  const int64_t row = conv.padded_row(), left = minimum(conv.padding * conv.channels, row);
  const int64_t given = minimum(conv.width * conv.channels, row - left);
  for (int64_t y = first; y < first + rows; ++y, out += row) {
    const bool inside = y >= 0 && y < conv.height;
    const int64_t copied = inside ? given : 0;
    memset(out, 0, static_cast<size_t>(left) * sizeof(T));
    if (inside) memcpy(out + left, conv.pixel(image, y, 0), static_cast<size_t>(given) * sizeof(T));
    memset(out + left + copied, 0, static_cast<size_t>(row - left - copied) * sizeof(T));
  }
}

// Two rows of the result from (image, y, 0) on, for kVectors vectors of filters. What lies beyond its last row and
// column is computed from zeros, and left out.
template <int kVectors, typename T>
void convolve_rows(const Conv<T>& conv, const Product& product, ConvWindow at, int64_t filter, const T* rows,
                   const T* weights) {
  constexpr int kWindows = kPictureWindows<kVectors>;
  static_assert(2 * kWindows <= kMostWindowColumns, "rows are padded for them");
  const int64_t below = conv.stride * conv.padded_row();
  for (; at.x < conv.columns; rows += 2 * kWindows * product.stride) {
    Floats sum[4 * kWindows][kVectors];
    sum_products<true, false>(product, below, rows, weights, sum);
#pragma GCC unroll 3
    for (int window = 0; window < kWindows; ++window, at.x += 2) {
      if (at.x >= conv.columns) return;
      const int row = 4 * window;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Floats pixels[2][2] = {{sum[row][v], sum[row + 2][v]}, {sum[row + 1][v], sum[row + 3][v]}};
        finish_window(conv, at, filter + v * kFloats, pixels);
      }
    }
  }
}

// Some of the pairs of a band of rows and a panel of filters. A line of a filter is one sum over pixels side by side.
template <typename T>
void convolve_picture(const Conv<T>& conv, int64_t begin, int64_t end, T* padded) {
  const int64_t row = conv.padded_row();
  int64_t padded_block = -1;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t block = i / conv.panels(), panel = i % conv.panels(), filters = conv.filters_of_panel(panel);
    const int64_t image = block / conv.bands(), first = block % conv.bands() * kBandRows;
    const int64_t end_of_band = minimum(conv.rows, first + kBandRows);
    if (block != padded_block) pad_rows(conv, image, first * conv.stride - conv.padding, conv.rows_of_band(), padded);
    padded_block = block;
    const Product product{conv.stride * conv.channels, conv.size * conv.channels, conv.size, row, filters, false};
    const T* weights = conv.weights + conv.weights_of(panel, 0);
    for (int64_t y = first; y < end_of_band; y += 2) {
      const T* rows = padded + (y - first) * conv.stride * row;
      const ConvWindow at{image, y, 0};
      const int64_t filter = panel * kConvFilters;
      switch (filters / kFloats) {
#if PYDET_LEVEL_IS_AVX512
        case 1:
          convolve_rows<1>(conv, product, at, filter, rows, weights);
          break;
        case 2:
          convolve_rows<2>(conv, product, at, filter, rows, weights);
          break;
        case 3:
          convolve_rows<3>(conv, product, at, filter, rows, weights);
          break;
        default:
          convolve_rows<4>(conv, product, at, filter, rows, weights);
#else
        default:
          for (int64_t f = 0; f < filters; f += 2 * kFloats) {
            convolve_rows<2>(conv, product, at, filter + f, rows, weights + f);
          }
#endif
      }
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
