// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// Writes first + i for every values[i] above the threshold and returns how many there are. `found` has room for
// n + kScanSlack of them: whole vectors are written.
template <typename T, typename In>
inline int64_t run_above(const In* values, int64_t n, T threshold, uint32_t first, uint32_t* found) {
  constexpr int64_t kBlock = 64;
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    int any = 0;
    for (int64_t i = begin; i < end; ++i) any |= widen(values[i]) > threshold;
    if (!any) continue;
    for (int64_t i = begin; i < end; ++i) {
      found[count] = first + static_cast<uint32_t>(i);
      count += widen(values[i]) > threshold;
    }
  }
  return count;
}

// The compiler does not vectorise what gathers the indices. No branch: at one score in fifty it would be mispredicted.
#if defined(PYDET_LEVEL_IS_AVX512)
inline int64_t run_above(const float* values, int64_t n, float threshold, uint32_t first, uint32_t* found) {
  const __m512 bound = _mm512_set1_ps(threshold);
  const __m512i step = _mm512_set1_epi32(16);
  __m512i index = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                   _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  int64_t count = 0, i = 0;
  for (; i + 16 <= n; i += 16) {
    const __mmask16 above = _mm512_cmp_ps_mask(_mm512_loadu_ps(values + i), bound, _CMP_GT_OQ);
    _mm512_storeu_si512(found + count, _mm512_maskz_compress_epi32(above, index));
    count += __builtin_popcount(above);
    index = _mm512_add_epi32(index, step);
  }
  if (i < n) {
    const __mmask16 rest = static_cast<__mmask16>((1u << (n - i)) - 1);
    const __mmask16 above = _mm512_mask_cmp_ps_mask(rest, _mm512_maskz_loadu_ps(rest, values + i), bound, _CMP_GT_OQ);
    _mm512_storeu_si512(found + count, _mm512_maskz_compress_epi32(above, index));
    count += __builtin_popcount(above);
  }
  return count;
}
#elif defined(PYDET_LEVEL_IS_AVX2)
inline int64_t run_above(const float* values, int64_t n, float threshold, uint32_t first, uint32_t* found) {
  const __m256 bound = _mm256_set1_ps(threshold);
  int64_t count = 0, i = 0;
  for (; i + 32 <= n; i += 32) {
    uint32_t above = 0;
    for (int k = 0; k < 32; k += 8) {
      const __m256 greater = _mm256_cmp_ps(_mm256_loadu_ps(values + i + k), bound, _CMP_GT_OQ);
      above |= static_cast<uint32_t>(_mm256_movemask_ps(greater)) << k;
    }
    for (; above != 0; above &= above - 1) found[count++] = first + static_cast<uint32_t>(i + __builtin_ctz(above));
  }
  for (; i < n; ++i) {
    found[count] = first + static_cast<uint32_t>(i);
    count += values[i] > threshold;
  }
  return count;
}
#endif

// Flat indices row * classes + class, from `first` on, of the scores above the threshold in rows `stride` values apart.
template <typename T, typename In>
int64_t scores_above(const In* scores, int64_t rows, int64_t classes, int64_t stride, T threshold, uint32_t first,
                     uint32_t* found) {
  if (stride == classes) return run_above(scores, rows * classes, threshold, first, found);
  int64_t count = 0;
  for (int64_t row = 0; row < rows; ++row) {
    count += run_above(scores + row * stride, classes, threshold, first + static_cast<uint32_t>(row * classes),
                       found + count);
  }
  return count;
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
