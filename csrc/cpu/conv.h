// No include guard: compiled once per instruction set, see cpu_levels.h.
#if PYDET_LEVEL_IS_AVX2 || PYDET_LEVEL_IS_AVX512
// clang-format off
#include "conv_product.h"
#include "conv_result.h"
#include "conv_winograd.h"
#include "conv_picture.h"
// clang-format on

namespace pydet {
namespace PYDET_LEVEL {

// Of a convolution of 1 x 1, whose tiles are its pixels.
template <typename T>
void finish_pixels(const Conv<T>& conv, int64_t first, int64_t count, int64_t first_filter, int64_t filters,
                   const float* __restrict__ sums) {
  T* pixel = conv.out + first * conv.filters;
  for (int64_t i = 0; i < count; ++i, sums += filters, pixel += conv.filters) {
    for (int64_t f = 0; f < filters; f += kFloats) finish(conv, load(sums + f), first_filter + f, pixel);
  }
}

// Some of the pairs of a block of tiles and a panel of filters, all panels of a block one after another.
template <typename T>
void convolve(const Conv<T>& conv, int64_t begin, int64_t end, char* scratch) {
  float* sums = reinterpret_cast<float*>(scratch);
  T* transformed = reinterpret_cast<T*>(scratch + conv.bytes_of_sums());
  if (conv.way == ConvWay::picture) return convolve_picture(conv, begin, end, transformed);
  const bool winograd = conv.way == ConvWay::winograd;
  int64_t block_of_tiles = -1;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t block = i / conv.panels(), panel = i % conv.panels(), filters = conv.filters_of_panel(panel);
    const int64_t first = block * conv.tiles_of_block, count = minimum(conv.tiles() - first, conv.tiles_of_block);
    if (winograd && block != block_of_tiles) transform_tiles(conv, first, count, transformed);
    block_of_tiles = block;
    const T* tiles = winograd ? transformed : conv.x + first * conv.channels;
    const Product product{conv.channels, conv.channels, 1, 0, filters, conv.weights_are_far()};
    for (int64_t place = 0; place < conv.places(); ++place) {
      multiply_tiles(tiles + place * conv.tiles_of_block * conv.channels, count, product,
                     conv.weights + conv.weights_of(panel, place), sums + place * conv.tiles_of_block * filters);
    }
    if (winograd) {
      transform_sums(conv, first, count, panel * kConvFilters, filters, sums);
    } else {
      finish_pixels(conv, first, count, panel * kConvFilters, filters, sums);
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
#endif
