// A part of conv.h: vectors and their products.
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
// NaN as soon as there is one: of two numbers where one is none, the instruction gives the second.
PYDET_HD Floats largest(Floats a, Floats b) {
  return _mm512_mask_max_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a, b);
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
PYDET_HD Floats largest(Floats a, Floats b) {
  return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
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

// What is multiplied: some rows of tiles, each `stride` behind the one before it, and
// weights[lines][channels][filters]. Of a row it is `channels` side by side, and as many of all its lines, which are
// `line` apart; the last of an odd number brings what lies behind it along, for a weight of 0. The first channels of a
// sum begin it; if it `adds`, they are added to it.
struct Product {
  int64_t stride, channels, lines, line, filters;
  bool far;  // whether the weights come from memory: those of the next product are then asked for meanwhile
  bool adds = false;
  const void* soon = nullptr;
};

constexpr int64_t kLine = 64;  // bytes of a cache's

// Two rows are one below the other if kPairs, `below` apart. If kAsks, for what is read soon.
template <bool kPairs, bool kAsks, int kRows, int kVectors, typename T>
PYDET_HD void sum_products(const Product& product, int64_t below, const T* __restrict__ tiles,
                           const T* __restrict__ weights, Floats (&sum)[kRows][kVectors]) {
  const int64_t stride = product.stride, filters = product.filters;
  using S = Step<T>;
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[row][v] = all(0);
  }
  for (int64_t line = 0; line < product.lines; ++line, tiles += product.line) {
    for (int64_t c = 0; c < product.channels; c += S::kChannels, weights += filters * S::kChannels) {
      decltype(S::of_weights(weights)) weight[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) weight[v] = S::of_weights(weights + v * kFloats * S::kChannels);
      if (kAsks) {
        const char* soon = static_cast<const char*>(product.soon) + c / S::kChannels * 2 * kLine;
        __builtin_prefetch(soon, 0, 2);
        __builtin_prefetch(soon + kLine, 0, 2);
      }
#pragma GCC unroll 12
      for (int row = 0; row < kRows; ++row) {
        const int64_t at = kPairs ? row % 2 * below + row / 2 * stride : row * stride;
        const auto channel = S::of_tile(tiles + at + c);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[row][v] = S::add(channel, weight[v], sum[row][v]);
      }
    }
  }
}

// sums[kRows][filters] of kVectors vectors of filters.
template <int kRows, int kVectors, bool kAsks, typename T>
void multiply(const Product& product, const T* tiles, const T* weights, float* __restrict__ sums) {
  Floats sum[kRows][kVectors];
  sum_products<false, kAsks>(product, 0, tiles, weights, sum);
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = sums + row * product.filters + v * kFloats;
      store(product.adds ? load(to) + sum[row][v] : sum[row][v], to);
    }
  }
}

constexpr int64_t kMostRows = 6;

template <int kVectors, bool kAsks, int kRows = 1, typename T>
void multiply_rows(int64_t rows, const Product& product, const T* tiles, const T* weights, float* sums) {
  if (rows == kRows) return multiply<kRows, kVectors, kAsks>(product, tiles, weights, sums);
  if constexpr (kRows < kMostRows) {
    return multiply_rows<kVectors, kAsks, kRows + 1>(rows, product, tiles, weights, sums);
  }
}

// In groups as even as can be: one of a single row takes half of the time of six. The first reads the weights, the next
// two have time to ask for those that follow them.
template <int kVectors, typename T>
void multiply_groups(int64_t count, Product product, const T* tiles, const T* weights, float* sums) {
  const int64_t groups = (count - 1) / kMostRows + 1, half = product.channels * product.filters / 2;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = group * count / groups, rows = (group + 1) * count / groups - first;
    const T* of_group = tiles + first * product.stride;
    float* to = sums + first * product.filters;
    if (kVectors == 4 && product.far && (group == 1 || group == 2)) {
      product.soon = weights + (group + 1) * half;
      multiply_rows<kVectors, kVectors == 4>(rows, product, of_group, weights, to);
    } else {
      multiply_rows<kVectors, false>(rows, product, of_group, weights, to);
    }
  }
}

// The products of `count` rows, of one line each.
template <typename T>
void multiply_tiles(const T* tiles, int64_t count, const Product& all, const T* weights, float* sums) {
  constexpr int64_t kChannels = 512;  // are summed at a time: their weights stay in a cache, and the sum exact
  for (int64_t c = 0; c < all.channels; c += kChannels) {
    Product product = all;
    product.channels = minimum(all.channels - c, kChannels);
    product.adds = c > 0;
    for (int64_t f = 0; f < all.filters; f += kMaxVectors * kFloats) {
      const T* of_filters = weights + c * all.filters + f * Step<T>::kChannels;
      switch (minimum<int64_t>((all.filters - f) / kFloats, kMaxVectors)) {
        case 2:  // the only one of AVX2, where two are the 16 filters of which there is always a multiple
          multiply_groups<2>(count, product, tiles + c, of_filters, sums + f);
          break;
#if PYDET_LEVEL_IS_AVX512
        case 1:
          multiply_groups<1>(count, product, tiles + c, of_filters, sums + f);
          break;
        case 3:
          multiply_groups<3>(count, product, tiles + c, of_filters, sums + f);
          break;
        default:
          multiply_groups<4>(count, product, tiles + c, of_filters, sums + f);
#endif
      }
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
