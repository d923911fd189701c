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

template <int64_t kColumns>
void transpose_16(const float* in, float* __restrict__ out, int64_t stride) {
  __m512 rows[16];
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_loadu_ps(in + i * kColumns);
  exchange<8>(rows);
  exchange<4>(rows);
  exchange<2>(rows);
  exchange<1>(rows);
  for (int i = 0; i < 16; ++i) _mm512_storeu_ps(out + i * stride, rows[i]);
}
#endif

// out[t * stride + r] = in[r][t]: planes of cells become rows of channels.
template <typename T, int64_t kColumns>
void transpose(const T (*in)[kColumns], int64_t rows, int64_t count, T* __restrict__ out, int64_t stride) {
  int64_t t = 0;
#if PYDET_X86
  if constexpr (sizeof(T) == sizeof(float)) {
#if PYDET_LEVEL_IS_AVX512
    for (; rows == 16 && t + 16 <= count; t += 16) {
      transpose_16<kColumns>(&in[0][t], out + t * stride, stride);
    }
#endif
    for (; t + 4 <= count; t += 4) {
      int64_t r = 0;
      for (; r + 4 <= rows; r += 4) {
        __m128 a = _mm_loadu_ps(&in[r][t]), b = _mm_loadu_ps(&in[r + 1][t]);
        __m128 c = _mm_loadu_ps(&in[r + 2][t]), d = _mm_loadu_ps(&in[r + 3][t]);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        float* corner = out + t * stride + r;
        _mm_storeu_ps(corner, a);
        _mm_storeu_ps(corner + stride, b);
        _mm_storeu_ps(corner + 2 * stride, c);
        _mm_storeu_ps(corner + 3 * stride, d);
      }
      for (; r < rows; ++r) {
        for (int64_t i = t; i < t + 4; ++i) out[i * stride + r] = in[r][i];
      }
    }
  }
#endif
  for (; t < count; ++t) {
    for (int64_t r = 0; r < rows; ++r) out[t * stride + r] = in[r][t];
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
