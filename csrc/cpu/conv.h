// No include guard: compiled once per instruction set, see cpu_levels.h.
#if PYDET_LEVEL_IS_AVX2 || PYDET_LEVEL_IS_AVX512

namespace pydet {
namespace PYDET_LEVEL {

#if PYDET_LEVEL_IS_AVX512
using Floats = __m512;
constexpr int kFloats = 16, kMaxVectors = 4;  // 6 x 4 sums, 4 of the weights and one of a tile in 32 registers
PYDET_HD Floats load(const float* from) { return _mm512_loadu_ps(from); }
PYDET_HD Floats all(float value) { return _mm512_set1_ps(value); }
PYDET_HD Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
PYDET_HD Floats where_below_0(Floats x, Floats a, Floats b) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), b, a);
}
PYDET_HD void store(Floats x, float* to) { _mm512_storeu_ps(to, x); }
#else
using Floats = __m256;
constexpr int kFloats = 8, kMaxVectors = 2;  // 6 x 2 sums, 2 of the weights and one of a tile in 16 registers
PYDET_HD Floats load(const float* from) { return _mm256_loadu_ps(from); }
PYDET_HD Floats all(float value) { return _mm256_set1_ps(value); }
PYDET_HD Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
PYDET_HD Floats where_below_0(Floats x, Floats a, Floats b) {
  return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}
PYDET_HD void store(Floats x, float* to) { _mm256_storeu_ps(to, x); }
#endif

// What one step of a sum takes: a channel in float32, two side by side in bfloat16.
template <typename T>
struct Step;

template <>
struct Step<float> {
  static constexpr int64_t kChannels = 1;
  static PYDET_HD Floats of_tile(const float* channel) { return all(*channel); }
  static PYDET_HD Floats of_weights(const float* weights) { return load(weights); }
  static PYDET_HD Floats add(Floats a, Floats b, Floats sum) { return multiply_add(a, b, sum); }
};

#if PYDET_LEVEL_IS_AVX512_BF16
PYDET_HD Floats load(const uint16_t* from) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
PYDET_HD void store(Floats x, uint16_t* to) {
  const __m256bh rounded = _mm512_cvtneps_pbh(x);
  memcpy(to, &rounded, sizeof(rounded));
}

template <>
struct Step<uint16_t> {
  static constexpr int64_t kChannels = 2;
  static PYDET_HD __m512bh of_tile(const uint16_t* channels) {
    int32_t pair;
    memcpy(&pair, channels, sizeof(pair));
    return of(_mm512_set1_epi32(pair));
  }
  static PYDET_HD __m512bh of_weights(const uint16_t* weights) { return of(_mm512_loadu_si512(weights)); }
  static PYDET_HD Floats add(__m512bh a, __m512bh b, Floats sum) { return _mm512_dpbf16_ps(sum, a, b); }

 private:
  static PYDET_HD __m512bh of(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }
};
#endif

// A ReLU of -inf is 0, which a product is not.
PYDET_HD Floats activated(Floats x, float slope) { return where_below_0(x, slope == 0 ? all(0) : x * all(slope), x); }

// Of the last vector some are of no filter.
template <typename T>
PYDET_HD void store_some(Floats x, int64_t count, T* to) {
  if (count >= kFloats) {
    store(x, to);
  } else if (count > 0) {
    T numbers[kFloats];
    store(x, numbers);
    memcpy(to, numbers, static_cast<size_t>(count) * sizeof(T));
  }
}

// Lavin and Gray 2015, section 4.1: B^T d B of tiles of 4 x 4 pixels, 2 apart, into tiles[16][tiles_of_block][C].
template <typename T>
void transform_tiles(const Conv<T>& conv, int64_t first, int64_t count, T* __restrict__ tiles) {
  const int64_t to_next = conv.tiles_of_block * conv.channels;
  ConvTile tile = conv.tile(first);
  for (int64_t i = 0; i < count; ++i, tiles += conv.channels, tile = conv.next(tile)) {
    const T* pixels[4][4];
    const T* corner = conv.pixel(tile.image, tile.y - 1, tile.x - 1);
    const bool inside = conv.has(tile.y - 1, tile.x - 1) && conv.has(tile.y + 2, tile.x + 2);
    for (int y = 0; y < 4; ++y) {
      for (int x = 0; x < 4; ++x) {
        const bool given = inside || conv.has(tile.y + y - 1, tile.x + x - 1);
        pixels[y][x] = given ? corner + (y * conv.width + x) * conv.channels : conv.zeros;
      }
    }
    for (int64_t c = 0; c < conv.channels; c += kFloats) {
      Floats rows[4][4];
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x) {
        const Floats a = load(pixels[0][x] + c), b = load(pixels[1][x] + c);
        const Floats d = load(pixels[2][x] + c), e = load(pixels[3][x] + c);
        rows[0][x] = a - d;
        rows[1][x] = b + d;
        rows[2][x] = d - b;
        rows[3][x] = b - e;
      }
      T* out = tiles + c;
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y, out += 4 * to_next) {
        store(rows[y][0] - rows[y][2], out);
        store(rows[y][1] + rows[y][2], out + to_next);
        store(rows[y][2] - rows[y][1], out + 2 * to_next);
        store(rows[y][1] - rows[y][3], out + 3 * to_next);
      }
    }
  }
}

// What is multiplied: some rows of tiles[count][stride], of which `channels` are taken, and weights[channels][filters].
// The first of the channels of a sum begins it, the others are added to it.
struct Product {
  int64_t stride, channels, filters;
  bool adds;
};

// sums[kRows][filters] of kVectors vectors of filters.
template <int kRows, int kVectors, typename T>
void multiply(const Product& product, const T* __restrict__ tiles, const T* __restrict__ weights,
              float* __restrict__ sums) {
  const int64_t channels = product.channels, stride = product.stride, filters = product.filters;
  using S = Step<T>;
  Floats sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[row][v] = all(0);
  }
  for (int64_t c = 0; c < channels; c += S::kChannels, weights += filters * S::kChannels) {
    decltype(S::of_weights(weights)) weight[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) weight[v] = S::of_weights(weights + v * kFloats * S::kChannels);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const auto channel = S::of_tile(tiles + row * stride + c);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[row][v] = S::add(channel, weight[v], sum[row][v]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = sums + row * filters + v * kFloats;
      store(product.adds ? load(to) + sum[row][v] : sum[row][v], to);
    }
  }
}

template <int kVectors, typename T>
void multiply_rows(int64_t rows, const Product& product, const T* tiles, const T* weights, float* sums) {
  switch (rows) {
    case 1:
      return multiply<1, kVectors>(product, tiles, weights, sums);
    case 2:
      return multiply<2, kVectors>(product, tiles, weights, sums);
    case 3:
      return multiply<3, kVectors>(product, tiles, weights, sums);
    case 4:
      return multiply<4, kVectors>(product, tiles, weights, sums);
    case 5:
      return multiply<5, kVectors>(product, tiles, weights, sums);
    default:
      return multiply<6, kVectors>(product, tiles, weights, sums);
  }
}

// [count, C] times [C, filters] for one of the places in the tiles.
template <typename T>
void multiply_tiles(const T* tiles, int64_t count, int64_t channels, const T* weights, int64_t filters, float* sums) {
  constexpr int64_t kRows = 6;
  constexpr int64_t kChannels = 512;  // are summed at a time: their weights stay in a cache, and the sum exact
  const int64_t groups = (count + kRows - 1) / kRows;  // as even as can be: a group of one row takes half of the time
  for (int64_t c = 0; c < channels; c += kChannels) {
    const Product product{channels, minimum(channels - c, kChannels), filters, c > 0};
    for (int64_t f = 0; f < filters; f += kMaxVectors * kFloats) {
      const int64_t vectors = minimum<int64_t>((filters - f) / kFloats, kMaxVectors);
      const T* of_filters = weights + c * filters + f * Step<T>::kChannels;
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t first = group * count / groups, rows = (group + 1) * count / groups - first;
        const T* of_group = tiles + first * channels + c;
        float* to = sums + first * filters + f;
        switch (vectors) {
          case 2:  // the only one of AVX2, where two are the 16 filters of which there is always a multiple
            multiply_rows<2>(rows, product, of_group, of_filters, to);
            break;
#if PYDET_LEVEL_IS_AVX512
          case 1:
            multiply_rows<1>(rows, product, of_group, of_filters, to);
            break;
          case 3:
            multiply_rows<3>(rows, product, of_group, of_filters, to);
            break;
          default:
            multiply_rows<4>(rows, product, of_group, of_filters, to);
#endif
        }
      }
    }
  }
}

// A^T m A of sums[16][tiles_of_block][filters], the bias and the activation: 2 x 2 pixels of a tile.
template <typename T>
void transform_sums(const Conv<T>& conv, int64_t first, int64_t count, int64_t first_filter, int64_t filters,
                    const float* __restrict__ sums) {
  const int64_t to_next = conv.tiles_of_block * filters;
  ConvTile tile = conv.tile(first);
  for (int64_t i = 0; i < count; ++i, sums += filters, tile = conv.next(tile)) {
    for (int64_t f = 0; f < filters; f += kFloats) {
      const float* from = sums + f;
      Floats rows[2][4];
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x) {
        const Floats a = load(from + x * to_next), b = load(from + (4 + x) * to_next);
        const Floats c = load(from + (8 + x) * to_next), d = load(from + (12 + x) * to_next);
        rows[0][x] = a + b + c;
        rows[1][x] = b - c - d;
      }
      const Floats bias = load(conv.bias + first_filter + f);
      const int64_t left = conv.filters - first_filter - f;
#pragma GCC unroll 2
      for (int y = 0; y < 2; ++y) {
        const Floats pixels[2] = {rows[y][0] + rows[y][1] + rows[y][2] + bias,
                                  rows[y][1] - rows[y][2] - rows[y][3] + bias};
#pragma GCC unroll 2
        for (int x = 0; x < 2; ++x) {
          if (tile.y + y >= conv.height || tile.x + x >= conv.width) continue;
          T* to = conv.out_pixel(tile.image, tile.y + y, tile.x + x) + first_filter + f;
          store_some(activated(pixels[x], conv.slope), left, to);
        }
      }
    }
  }
}

// Of a convolution of 1 x 1, whose tiles are its pixels: the bias and the activation.
template <typename T>
void finish_sums(const Conv<T>& conv, int64_t first, int64_t count, int64_t first_filter, int64_t filters,
                 const float* __restrict__ sums) {
  T* out = conv.out + first * conv.filters + first_filter;
  for (int64_t i = 0; i < count; ++i, sums += filters, out += conv.filters) {
    for (int64_t f = 0; f < filters; f += kFloats) {
      const Floats sum = load(sums + f) + load(conv.bias + first_filter + f);
      store_some(activated(sum, conv.slope), conv.filters - first_filter - f, out + f);
    }
  }
}

// Some of the pairs of a block of tiles and a panel of filters, all panels of a block one after another.
template <typename T>
void convolve(const Conv<T>& conv, int64_t begin, int64_t end, char* scratch) {
  float* sums = reinterpret_cast<float*>(scratch);
  T* transformed = reinterpret_cast<T*>(scratch + conv.bytes_of_sums());
  int64_t block_of_tiles = -1;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t block = i / conv.panels(), panel = i % conv.panels(), filters = conv.filters_of_panel(panel);
    const int64_t first = block * conv.tiles_of_block, count = minimum(conv.tiles() - first, conv.tiles_of_block);
    if (conv.is_3x3 && block != block_of_tiles) transform_tiles(conv, first, count, transformed);
    block_of_tiles = block;
    const T* tiles = conv.is_3x3 ? transformed : conv.x + first * conv.channels;
    for (int64_t place = 0; place < conv.places(); ++place) {
      multiply_tiles(tiles + place * conv.tiles_of_block * conv.channels, count, conv.channels,
                     conv.weights + conv.weights_of(panel, place), filters,
                     sums + place * conv.tiles_of_block * filters);
    }
    if (conv.is_3x3) {
      transform_sums(conv, first, count, panel * kConvFilters, filters, sums);
    } else {
      finish_sums(conv, first, count, panel * kConvFilters, filters, sums);
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
#endif
