// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// One line of the result, n numbers, of the two lines of the picture that it lies between.
template <typename T>
void resample_line(bool fuse, const ResampledLine<T> above, const ResampledLine<T> below, T upper, T lower,
                   const T* __restrict__ left, const T* __restrict__ right, int64_t n, T* __restrict__ out) {
  const T* __restrict__ a = above.left;
  const T* __restrict__ b = above.right;
  const T* __restrict__ c = below.left;
  const T* __restrict__ d = below.right;
  if (fuse) {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = mixed<PYDET_LEVEL_IS_FUSED>(a[i], b[i], c[i], d[i], upper, lower, left[i], right[i]);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = mixed<false>(a[i], b[i], c[i], d[i], upper, lower, left[i], right[i]);
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
