// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// A line of the picture as one of the result, kColours colours from `colour` on.
template <bool kFused, int kColours, typename In, typename T>
void mix_colours(const In* __restrict__ line, int64_t channel_stride, int64_t colour, const PixelValues<In, T> values,
                 const ResampleColumn<T>* __restrict__ columns, int64_t width, int64_t pixel_step, int64_t colour_step,
                 T* __restrict__ out) {
  line += colour * channel_stride;
  out += colour * colour_step;
  for (int64_t x = 0; x < width; ++x, out += pixel_step) {
    const ResampleColumn<T> column = columns[x];
    for (int c = 0; c < kColours; ++c) {
      const T left = values.of(line[column.left + c * channel_stride], colour + c);
      const T right = values.of(line[column.right + c * channel_stride], colour + c);
      out[c * colour_step] = mixed<kFused>(left, right, column.left_part, column.right_part);
    }
  }
}

template <bool kFused, typename In, typename T>
void mix_all_colours(const In* line, int64_t channel_stride, int64_t channels, const PixelValues<In, T>& values,
                     const ResampleColumn<T>* columns, int64_t width, int64_t pixel_step, int64_t colour_step, T* out) {
  int64_t c = 0;
  for (; c + 3 <= channels; c += 3) {
    mix_colours<kFused, 3>(line, channel_stride, c, values, columns, width, pixel_step, colour_step, out);
  }
  for (; c < channels; ++c) {
    mix_colours<kFused, 1>(line, channel_stride, c, values, columns, width, pixel_step, colour_step, out);
  }
}

template <typename In, typename T>
void mix_columns(bool fuse, const In* line, int64_t channel_stride, int64_t channels, const PixelValues<In, T>& values,
                 const ResampleColumn<T>* columns, int64_t width, int64_t pixel_step, int64_t colour_step, T* out) {
  if (fuse) {
    mix_all_colours<PYDET_LEVEL_IS_FUSED>(line, channel_stride, channels, values, columns, width, pixel_step,
                                          colour_step, out);
  } else {
    mix_all_colours<false>(line, channel_stride, channels, values, columns, width, pixel_step, colour_step, out);
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
