// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// out[t * out_stride + r] = in[r * in_stride + t].
template <typename T>
void transpose(const T* __restrict__ in, int64_t in_stride, int64_t rows, int64_t count, T* __restrict__ out,
               int64_t out_stride) {
  int64_t t = 0;
#if PYDET_X86
  if constexpr (sizeof(T) == sizeof(float)) {
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
