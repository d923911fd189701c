// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// Along a line, n numbers, each of them with parts of its own.
template <typename T>
void mix_columns(bool fuse, const T* __restrict__ left, const T* __restrict__ right, const T* __restrict__ left_part,
                 const T* __restrict__ right_part, int64_t n, T* __restrict__ out) {
  if (fuse) {
    for (int64_t i = 0; i < n; ++i)
      out[i] = mixed<PYDET_LEVEL_IS_FUSED>(left[i], right[i], left_part[i], right_part[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = mixed<false>(left[i], right[i], left_part[i], right_part[i]);
  }
}

// Between two lines.
template <typename T, typename Out>
void mix_rows(bool fuse, const T* __restrict__ above, const T* __restrict__ below, T upper, T lower, int64_t n,
              Out* __restrict__ out) {
  if (fuse) {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = narrowed<Out>(mixed<PYDET_LEVEL_IS_FUSED>(above[i], below[i], upper, lower));
    }
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = narrowed<Out>(mixed<false>(above[i], below[i], upper, lower));
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
