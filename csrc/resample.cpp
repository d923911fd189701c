#include <algorithm>
#include <type_traits>
#include <utility>

#include "checks/resample.h"
#include "math/resample.h"
#include "widen.h"

namespace pydet {
namespace {

// What the pixels of a picture count as: a byte by a table of each colour, or of all, or the number itself, normalised
// where there is a mean.
template <typename In, typename T>
struct PixelValues {
  const T *tables, *mean, *std;
  int64_t table_step;

  PYDET_HD T of(In pixel, int64_t colour) const {
    if constexpr (std::is_same_v<In, uint8_t>) {
      return tables[colour * table_step + pixel];
    } else {
      return mean == nullptr ? T(pixel) : (T(pixel) - mean[colour]) / std[colour];
    }
  }
};

// Where in a line of the picture the two neighbours of a column lie, and how much of each.
template <typename T>
struct ResampleColumn {
  int64_t left, right;
  T left_part, right_part;
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/resample.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kResampledPerTask = 1 << 13;
constexpr int64_t kByteValues = 256;

// The memory of PixelValues. The values of a byte, in 0..1 and perhaps normalised, are computed once.
template <typename In, typename T>
class Pixels {
 public:
  Pixels(const std::vector<double>& mean, const std::vector<double>& std)
      : mean_(mean.begin(), mean.end()), std_(std.begin(), std.end()) {
    if constexpr (std::is_same_v<In, uint8_t>) {
      const PixelValues<T, T> units{nullptr, mean_or_null(), std_.data(), 0};
      const int64_t tables = std::max<int64_t>(static_cast<int64_t>(mean.size()), 1);
      for (int64_t c = 0; c < tables; ++c) {
        for (int64_t v = 0; v < kByteValues; ++v) tables_.push_back(units.of(static_cast<T>(v) / 255, c));
      }
    }
  }

  PixelValues<In, T> values() const {
    return {tables_.data(), mean_or_null(), std_.data(), mean_.empty() ? 0 : kByteValues};
  }

 private:
  const T* mean_or_null() const { return mean_.empty() ? nullptr : mean_.data(); }

  std::vector<T> mean_, std_, tables_;
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

template <typename In, typename T, typename Out>
void resample_fill(const Tensor& image, const ResampleAxis& rows, const ResampleAxis& columns,
                   const std::vector<double>& mean, const std::vector<double>& std, bool fuse, Tensor& out) {
  const ResampleTarget target = target_of(out);
  const int64_t height = target.height, width = target.width, n = target.numbers();
  const Pixels<In, T> pixels(mean, std);
  const PixelValues<In, T> values = pixels.values();
  std::vector<ResampleColumn<T>> line_columns;
  for (int64_t x = 0; x < width; ++x) {
    line_columns.push_back({columns.places[x] * image.stride(2), columns.places[width + x] * image.stride(2),
                            static_cast<T>(columns.weights[x]), static_cast<T>(columns.weights[width + x])});
  }
  const In* data = image.const_data_ptr<In>();
  const int64_t channel_stride = image.stride(0), row_stride = image.stride(1);
  const int64_t pixel_step = target.pixel_step(), colour_step = target.colour_step();
  Out* result = out.mutable_data_ptr<Out>();
  torch::stable::parallel_for(0, height, kResampledPerTask / n + 1, [&](int64_t begin, int64_t end) {
    std::vector<T> memory(static_cast<size_t>(2 * n));
    std::vector<Out> apart(static_cast<size_t>(target.interleaved ? 0 : n));
    // The last two lines of the picture that were looked at: the next line of the result may lie between them too.
    T* lines[2] = {memory.data(), memory.data() + n};
    int64_t known[2] = {-1, -1};
    const auto look_at = [&](int64_t row, int slot) {
      if (known[slot] == row) return;
      known[slot] = row;
      const In* line = data + row * row_stride;
      PYDET_CPU_CALL(mix_columns, fuse, line, channel_stride, target.channels, values, line_columns.data(), width,
                     pixel_step, colour_step, lines[slot]);
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
