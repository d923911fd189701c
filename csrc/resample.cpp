#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "checks/resample.h"
#include "math/resample.h"
#include "widen.h"

#define PYDET_KERNELS "cpu/resample.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kResampledPerTask = 1 << 13;

// Where in a line of the picture the two neighbours of a column lie.
using Neighbours = std::array<int64_t, 2>;

// Pixels as numbers, in 0..1 and perhaps normalised. The 256 values of a byte are computed once.
template <typename In, typename T>
class Pixels {
 public:
  Pixels(const std::vector<double>& mean, const std::vector<double>& std) : mean_(mean.size()), std_(std.size()) {
    std::copy(mean.begin(), mean.end(), mean_.begin());
    std::copy(std.begin(), std.end(), std_.begin());
    if constexpr (kIsByte) {
      tables_.resize(std::max<size_t>(mean.size(), 1));
      for (size_t c = 0; c < tables_.size(); ++c) {
        for (int v = 0; v < 256; ++v) tables_[c][v] = normalized(static_cast<T>(v) / 255, c);
      }
    }
  }

  // The neighbours of each column, of kColours colours from `colour` on, as two lines of the result have them.
  template <int kColours>
  void read(const In* line, int64_t channel_stride, int64_t colour, const std::vector<Neighbours>& columns,
            int64_t pixel_step, int64_t colour_step, T* left, T* right) const {
    const T* tables[kColours] = {};
    if constexpr (kIsByte) {
      for (int c = 0; c < kColours; ++c)
        tables[c] = tables_[mean_.empty() ? 0 : static_cast<size_t>(colour + c)].data();
    }
    for (const Neighbours& column : columns) {
      for (int c = 0; c < kColours; ++c) {
        const In a = line[column[0] + c * channel_stride], b = line[column[1] + c * channel_stride];
        if constexpr (kIsByte) {
          left[c * colour_step] = tables[c][a];
          right[c * colour_step] = tables[c][b];
        } else {
          left[c * colour_step] = normalized(a, static_cast<size_t>(colour + c));
          right[c * colour_step] = normalized(b, static_cast<size_t>(colour + c));
        }
      }
      left += pixel_step;
      right += pixel_step;
    }
  }

 private:
  static constexpr bool kIsByte = std::is_same_v<In, uint8_t>;

  T normalized(T value, size_t colour) const { return mean_.empty() ? value : (value - mean_[colour]) / std_[colour]; }

  std::vector<T> mean_, std_;
  std::vector<std::array<T, 256>> tables_;
};

// Where the result lies: its numbers line by line, colours one after another within a pixel or a line.
struct ResampleTarget {
  int64_t channels, height, width, channel_stride, row_stride, column_stride;
  bool interleaved;

  int64_t numbers() const { return channels * width; }  // of a line
  int64_t pixel_step() const { return interleaved ? channels : 1; }
  int64_t colour_step() const { return interleaved ? 1 : width; }

  // A line of numbers that are not interleaved to where they belong.
  template <typename Out>
  void store(const Out* line, Out* out) const {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t x = 0; x < width; ++x) out[c * channel_stride + x * column_stride] = line[c * width + x];
    }
  }
};

ResampleTarget target_of(const Tensor& out) {
  const bool interleaved = out.stride(0) == 1 && out.stride(2) == out.size(0);
  return {out.size(0), out.size(1), out.size(2), out.stride(0), out.stride(1), out.stride(2), interleaved};
}

// Taps and parts on the CPU: [2, n] each, contiguous.
struct ResampleAxis {
  Tensor taps, parts;
  const int64_t* places;
  const float* weights;

  ResampleAxis(const Tensor& t, const Tensor& p, const char* name, int64_t size)
      : taps(as_contiguous(t, ScalarType::Long)),
        parts(as_contiguous(p, ScalarType::Float)),
        places(taps.const_data_ptr<int64_t>()),
        weights(parts.const_data_ptr<float>()) {
    for (int64_t i = 0; i < taps.numel(); ++i) {
      PYDET_CHECK(places[i] >= 0 && places[i] < size, "_resample: ", name, " must be in 0..", size - 1, ", got ",
                  places[i]);
    }
  }
};

// Numbers of each column as a line of the result has them: once for each colour.
template <typename T, typename Value>
std::vector<T> along(const ResampleTarget& target, Value value) {
  std::vector<T> line(static_cast<size_t>(target.numbers()));
  for (int64_t c = 0; c < target.channels; ++c) {
    for (int64_t x = 0; x < target.width; ++x) {
      line[static_cast<size_t>(c * target.colour_step() + x * target.pixel_step())] = static_cast<T>(value(x));
    }
  }
  return line;
}

template <typename In, typename T, typename Out>
void resample_fill(const Tensor& image, const ResampleAxis& rows, const ResampleAxis& columns,
                   const std::vector<double>& mean, const std::vector<double>& std, bool fuse, Tensor& out) {
  const ResampleTarget target = target_of(out);
  const int64_t height = target.height, width = target.width, n = target.numbers();
  const Pixels<In, T> pixels(mean, std);
  const std::vector<T> left = along<T>(target, [&](int64_t x) { return columns.weights[x]; });
  const std::vector<T> right = along<T>(target, [&](int64_t x) { return columns.weights[width + x]; });
  std::vector<Neighbours> neighbours(static_cast<size_t>(width));
  for (int64_t x = 0; x < width; ++x) {
    neighbours[static_cast<size_t>(x)] = {columns.places[x] * image.stride(2),
                                          columns.places[width + x] * image.stride(2)};
  }
  const In* data = image.const_data_ptr<In>();
  const int64_t channel_stride = image.stride(0), row_stride = image.stride(1);
  const int64_t pixel_step = target.pixel_step(), colour_step = target.colour_step();
  Out* result = out.mutable_data_ptr<Out>();
  torch::stable::parallel_for(0, height, kResampledPerTask / n + 1, [&](int64_t begin, int64_t end) {
    std::vector<T> memory(static_cast<size_t>(4 * n));
    std::vector<Out> apart(static_cast<size_t>(target.interleaved ? 0 : n));
    T *lefts = memory.data(), *rights = lefts + n;
    // The last two lines of the picture that were looked at: the next line of the result may lie between them too.
    T* lines[2] = {lefts + 2 * n, lefts + 3 * n};
    int64_t known[2] = {-1, -1};
    const auto look_at = [&](int64_t row, int slot) {
      if (known[slot] == row) return;
      known[slot] = row;
      for (int64_t c = 0; c < target.channels;) {
        const In* line = data + c * channel_stride + row * row_stride;
        T *to_left = lefts + c * colour_step, *to_right = rights + c * colour_step;
        if (target.channels - c >= 3) {
          pixels.template read<3>(line, channel_stride, c, neighbours, pixel_step, colour_step, to_left, to_right);
          c += 3;
        } else {
          pixels.template read<1>(line, channel_stride, c, neighbours, pixel_step, colour_step, to_left, to_right);
          c += 1;
        }
      }
      PYDET_CPU_CALL(mix_columns<T>, fuse, lefts, rights, left.data(), right.data(), n, lines[slot]);
    };
    for (int64_t y = begin; y < end; ++y) {
      const int64_t above = rows.places[y], below = rows.places[height + y];
      if (known[1] == above) {
        std::swap(lines[0], lines[1]);
        std::swap(known[0], known[1]);
      }
      look_at(above, 0);
      if (below != above) look_at(below, 1);
      Out* line = result + y * target.row_stride;
      PYDET_CPU_CALL(mix_rows<T>, fuse, lines[0], lines[below != above], static_cast<T>(rows.weights[y]),
                     static_cast<T>(rows.weights[height + y]), n, target.interleaved ? line : apart.data());
      if (!target.interleaved) target.store(apart.data(), line);
    }
  });
}

void resample_cpu(const Tensor& image,  // [C, H, W], any strides
                  const Tensor& rows,   // [2, height]
                  const Tensor& row_parts,
                  const Tensor& columns,  // [2, width]
                  const Tensor& column_parts, std::vector<double> mean, std::vector<double> std, bool fuse,
                  Tensor out) {  // [C, height, width]
  check_resample(image, rows, row_parts, columns, column_parts, mean, std, out);
  if (out.numel() == 0) return;
  const ResampleAxis down(rows, row_parts, "rows", image.size(1));
  const ResampleAxis across(columns, column_parts, "columns", image.size(2));
  PYDET_DISPATCH_RESAMPLED(image.scalar_type(), out.scalar_type(),
                           [&] { resample_fill<in_t, work_t, scalar_t>(image, down, across, mean, std, fuse, out); });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "_resample(Tensor image, Tensor rows, Tensor row_parts, Tensor columns, Tensor column_parts, float[] mean, "
      "float[] std, bool fuse, Tensor(a!) out) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("_resample", TORCH_BOX(&resample_cpu)); }

}  // namespace pydet
