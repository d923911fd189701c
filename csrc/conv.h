// A convolution as its kernels of all instruction sets read it. There are three ways to compute one; csrc/cpu/ has
// each.
#pragma once

#include "checks/common.h"
#include "math/scalar.h"

namespace pydet {

constexpr int64_t kConvFilters = 64;  // of a panel of the weights
constexpr int64_t kConvVector = 16;   // channels and filters are taken by so many
constexpr int64_t kPictureChannels = 4, kMaxPictureSize = 15;
constexpr int64_t kBandRows = 8;            // of a picture's result, from as many of its rows as that takes
constexpr int64_t kMostWindowColumns = 6;  // of its windows that are computed at once

constexpr int64_t kNearWeights = int64_t{2} << 20;  // bytes, which are soon read again

enum class ConvWay : int {
  winograd,  // 3 x 3 of stride 1
  pixels,    // 1 x 1: pixels times weights
  picture,   // any size and stride, of channels that fill no vector
};

// Its first pixel of the result; the tile of x that it is computed from begins a pixel before.
struct ConvWindow {
  int64_t image, y, x;
};

// bfloat16 is uint16_t. What `winograd` and `pixels` work through, some at a time, is called tiles: what 2 x 2 pixels
// of the result are computed from, or a pixel. `picture` works through bands of rows.
template <typename T>
struct Conv {
  ConvWay way;
  int64_t images, channels, filters, height, width;  // of x
  int64_t size, stride, padding;                        // of the filters
  bool pools;                                           // whether the largest of 2 x 2 pixels is the result
  int64_t rows, columns, out_height, out_width;         // before it is pooled, and of the result
  float slope;
  int64_t tiles_of_block;
  const T* x;         // [B, H, W, C]
  const T* weights;   // see weights_of
  const float* bias;  // of whole vectors
  const T* zeros;     // [C]
  T* out;             // [B, out_height, out_width, filters]

  PYDET_HD int64_t panels() const { return (filters + kConvFilters - 1) / kConvFilters; }
  PYDET_HD int64_t padded_filters() const { return (filters + kConvVector - 1) / kConvVector * kConvVector; }
  PYDET_HD int64_t filters_of_panel(int64_t panel) const {
    return minimum(padded_filters() - panel * kConvFilters, kConvFilters);
  }
  PYDET_HD int64_t places() const { return way == ConvWay::winograd ? 16 : 1; }
  // What is summed for a place: in bfloat16 pairs, of which the last of a picture's line may be a half.
  PYDET_HD int64_t depth() const {
    const int64_t line = size * channels;
    return way == ConvWay::picture ? size * (sizeof(T) == 2 ? (line + 1) / 2 * 2 : line) : channels;
  }
  PYDET_HD int64_t numbers_of_weights() const { return places() * depth() * padded_filters(); }
  PYDET_HD bool weights_are_far() const {
    return numbers_of_weights() * static_cast<int64_t>(sizeof(T)) > kNearWeights;
  }
  // Of a panel of filters [places, depth, filters], in bfloat16 [places, depth / 2, filters, 2].
  PYDET_HD int64_t weights_of(int64_t panel, int64_t place) const {
    return (panel * kConvFilters * places() + place * filters_of_panel(panel)) * depth();
  }

  PYDET_HD int64_t windows_across() const { return (width + 1) / 2; }
  PYDET_HD int64_t tiles_of_image() const {
    return way == ConvWay::winograd ? (height + 1) / 2 * windows_across() : height * width;
  }
  PYDET_HD int64_t tiles() const { return images * tiles_of_image(); }
  PYDET_HD int64_t bands() const { return (rows + kBandRows - 1) / kBandRows; }
  PYDET_HD int64_t blocks() const {
    return way == ConvWay::picture ? images * bands() : (tiles() + tiles_of_block - 1) / tiles_of_block;
  }

  PYDET_HD ConvWindow window(int64_t index) const {
    const int64_t place = index % tiles_of_image();
    return {index / tiles_of_image(), place / windows_across() * 2, place % windows_across() * 2};
  }
  PYDET_HD ConvWindow next(ConvWindow window) const {
    window.x += 2;
    if (window.x < width) return window;
    window = {window.image, window.y + 2, 0};
    return window.y < height ? window : ConvWindow{window.image + 1, 0, 0};
  }
  PYDET_HD const T* pixel(int64_t image, int64_t row, int64_t column) const {
    return x + ((image * height + row) * width + column) * channels;
  }
  PYDET_HD bool has(int64_t row, int64_t column) const {
    return row >= 0 && row < height && column >= 0 && column < width;
  }
  PYDET_HD T* out_pixel(int64_t image, int64_t row, int64_t column) const {
    return out + ((image * out_height + row) * out_width + column) * filters;
  }

  // Of a picture: what a band is computed from, and the numbers of a row of that with its margins, for windows all of
  // which are computed, and for what half a pair brings along.
  PYDET_HD int64_t rows_of_band() const { return (kBandRows - 1) * stride + size; }
  PYDET_HD int64_t padded_row() const {
    return ((columns - 1 + kMostWindowColumns - 1) * stride + size) * channels + 1;
  }
  PYDET_HD int64_t bytes_of_sums() const {
    if (way == ConvWay::picture) return 0;
    return places() * tiles_of_block * kConvFilters * static_cast<int64_t>(sizeof(float));
  }
  // The sums, then what is multiplied where that is not x itself.
  PYDET_HD int64_t bytes_of_scratch() const {
    const int64_t tiles = way == ConvWay::winograd  ? places() * tiles_of_block * channels
                          : way == ConvWay::picture ? rows_of_band() * padded_row()
                                                    : 0;
    return bytes_of_sums() + tiles * static_cast<int64_t>(sizeof(T));
  }
};

inline void check_conv_type(const char* op, const char* name, const Tensor& t) {
  PYDET_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::BFloat16, op, ": ", name,
              " must be float32 or bfloat16, got ", dtype_of(t));
}

// Body sees `scalar_t`.
#define PYDET_DISPATCH_CONV(TYPE, ...) \
  do {                                 \
    if ((TYPE) == ScalarType::Float) { \
      using scalar_t = float;          \
      __VA_ARGS__();                   \
    } else {                           \
      using scalar_t = uint16_t;       \
      __VA_ARGS__();                   \
    }                                  \
  } while (0)

}  // namespace pydet
