// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

#if PYDET_LEVEL_IS_AVX512
// Rows i and i + kStep of 16 x 16 values exchange the blocks of kStep values beside the diagonal.
template <int kStep>
PYDET_HD void exchange(__m512 (&rows)[16]) {
  alignas(64) int low[16], high[16];
  for (int i = 0; i < 16; ++i) {
    low[i] = i & kStep ? 16 + i - kStep : i;
    high[i] = i & kStep ? 16 + i : i + kStep;
  }
  const __m512i lower = _mm512_load_si512(low), higher = _mm512_load_si512(high);
  for (int i = 0; i < 16; ++i) {
    if (i & kStep) continue;
    const __m512 a = rows[i], b = rows[i + kStep];
    rows[i] = _mm512_permutex2var_ps(a, lower, b);
    rows[i + kStep] = _mm512_permutex2var_ps(a, higher, b);
  }
}

inline void transpose_16(const float* in, int64_t in_stride, float* __restrict__ out, int64_t out_stride) {
  __m512 rows[16];
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_loadu_ps(in + i * in_stride);
  exchange<8>(rows);
  exchange<4>(rows);
  exchange<2>(rows);
  exchange<1>(rows);
  for (int i = 0; i < 16; ++i) _mm512_storeu_ps(out + i * out_stride, rows[i]);
}
#endif

// out[t * out_stride + r] = in[r * in_stride + t]: planes of cells become rows of channels.
template <typename T>
void transpose(const T* in, int64_t in_stride, int64_t rows, int64_t count, T* __restrict__ out, int64_t out_stride) {
  int64_t t = 0;
#if PYDET_X86
  if constexpr (sizeof(T) == sizeof(float)) {
#if PYDET_LEVEL_IS_AVX512
    for (; rows == 16 && t + 16 <= count; t += 16) transpose_16(in + t, in_stride, out + t * out_stride, out_stride);
#endif
    for (; t + 4 <= count; t += 4) {
      int64_t r = 0;
      for (; r + 4 <= rows; r += 4) {
        const float* corner_in = in + r * in_stride + t;
        __m128 a = _mm_loadu_ps(corner_in), b = _mm_loadu_ps(corner_in + in_stride);
        __m128 c = _mm_loadu_ps(corner_in + 2 * in_stride), d = _mm_loadu_ps(corner_in + 3 * in_stride);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        float* corner = out + t * out_stride + r;
        _mm_storeu_ps(corner, a);
        _mm_storeu_ps(corner + out_stride, b);
        _mm_storeu_ps(corner + 2 * out_stride, c);
        _mm_storeu_ps(corner + 3 * out_stride, d);
      }
      for (; r < rows; ++r) {
        for (int64_t i = t; i < t + 4; ++i) out[i * out_stride + r] = in[r * in_stride + i];
      }
    }
  }
#endif
  for (; t < count; ++t) {
    for (int64_t r = 0; r < rows; ++r) out[t * out_stride + r] = in[r * in_stride + t];
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
