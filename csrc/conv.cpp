#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "checks/common.h"
#include "math/scalar.h"

namespace pydet {
namespace {

constexpr int64_t kConvFilters = 64;  // of a panel of the weights
constexpr int64_t kConvVector = 16;   // channels and filters are taken by so many

// Rows and columns of its first pixel of the result; the tile it is computed from begins a pixel before.
struct ConvTile {
  int64_t image, y, x;
};

// What the kernels of all instruction sets read; bfloat16 is uint16_t. A tile is what 2 x 2 pixels of the result are
// computed from by a convolution of 3 x 3, by one of 1 x 1 it is a pixel.
template <typename T>
struct Conv {
  int64_t images, channels, filters, height, width;
  bool is_3x3;
  float slope;
  int64_t tiles_of_block;
  const T* x;         // [B, H, W, C]
  const T* weights;   // see weights_of
  const float* bias;  // of whole vectors
  const T* zeros;     // [C]
  T* out;             // [B, H, W, filters]

  PYDET_HD int64_t places() const { return is_3x3 ? 16 : 1; }
  PYDET_HD int64_t tiles_across() const { return (width + 1) / 2; }
  PYDET_HD int64_t tiles_of_image() const { return is_3x3 ? (height + 1) / 2 * tiles_across() : height * width; }
  PYDET_HD int64_t tiles() const { return images * tiles_of_image(); }
  PYDET_HD int64_t blocks() const { return (tiles() + tiles_of_block - 1) / tiles_of_block; }
  PYDET_HD int64_t panels() const { return (filters + kConvFilters - 1) / kConvFilters; }
  PYDET_HD int64_t padded_filters() const { return (filters + kConvVector - 1) / kConvVector * kConvVector; }
  PYDET_HD int64_t filters_of_panel(int64_t panel) const {
    return minimum(padded_filters() - panel * kConvFilters, kConvFilters);
  }
  PYDET_HD int64_t numbers_of_weights() const { return places() * channels * padded_filters(); }
  // Of a panel of filters [places, C, filters], in bfloat16 [places, C / 2, filters, 2].
  PYDET_HD int64_t weights_of(int64_t panel, int64_t place) const {
    return (panel * kConvFilters * places() + place * filters_of_panel(panel)) * channels;
  }

  PYDET_HD ConvTile tile(int64_t index) const {
    const int64_t place = index % tiles_of_image();
    return {index / tiles_of_image(), place / tiles_across() * 2, place % tiles_across() * 2};
  }
  PYDET_HD ConvTile next(ConvTile tile) const {
    tile.x += 2;
    if (tile.x < width) return tile;
    tile = {tile.image, tile.y + 2, 0};
    return tile.y < height ? tile : ConvTile{tile.image + 1, 0, 0};
  }
  PYDET_HD const T* pixel(int64_t image, int64_t row, int64_t column) const {
    return x + ((image * height + row) * width + column) * channels;
  }
  PYDET_HD bool has(int64_t row, int64_t column) const {
    return row >= 0 && row < height && column >= 0 && column < width;
  }
  PYDET_HD T* out_pixel(int64_t image, int64_t row, int64_t column) const {
    return out + ((image * height + row) * width + column) * filters;
  }

  PYDET_HD int64_t bytes_of_sums() const {
    return places() * tiles_of_block * kConvFilters * static_cast<int64_t>(sizeof(float));
  }
  PYDET_HD int64_t bytes_of_scratch() const {
    const int64_t transformed = is_3x3 ? places() * tiles_of_block * channels : 0;
    return bytes_of_sums() + transformed * static_cast<int64_t>(sizeof(T));
  }
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/conv.h"
#include "cpu_levels.h"

// Compilers before GCC 10 and clang 9 lack it.
#if PYDET_X86 && __has_include(<avx512bf16intrin.h>)
#define PYDET_HAS_AVX512_BF16 1
// One more level: what multiplies pairs of bfloat16 came later than the rest of AVX-512.
PYDET_TARGET_BEGIN(PYDET_AVX512 ",avx512bf16")
#define PYDET_LEVEL avx512_bf16
#define PYDET_LEVEL_IS_AVX512 1
#define PYDET_LEVEL_IS_AVX512_BF16 1
#include PYDET_KERNELS
#undef PYDET_LEVEL_IS_AVX512_BF16
#undef PYDET_LEVEL_IS_AVX512
#undef PYDET_LEVEL
PYDET_TARGET_END
#endif

namespace pydet {
namespace {

// Of a block: that often is a weight used when it has been read, and so much is kept between the steps.
constexpr int64_t kFewTiles = 24, kManyTiles = 96;
constexpr int64_t kLaidOutChannels = 64;             // at a time: they are read side by side, and written apart
constexpr int64_t kNearWeights = int64_t{2} << 20;  // bytes, which are soon read again
constexpr int64_t kMaxScratch = int64_t{4} << 20;   // bytes

struct alignas(64) CacheLine {
  char bytes[64];
};

template <typename T>
using ConvKernel = void (*)(const Conv<T>&, int64_t, int64_t, char*);

// Null where this processor has none.
template <typename T>
ConvKernel<T> conv_kernel() {
#if PYDET_X86
  if constexpr (sizeof(T) == sizeof(float)) {
    if (cpu_level() == CpuLevel::avx512) return &avx512::convolve<T>;
    if (cpu_level() == CpuLevel::avx2) return &avx2::convolve<T>;
  }
#endif
#ifdef PYDET_HAS_AVX512_BF16
  if constexpr (sizeof(T) == 2) {
    if (cpu_level() == CpuLevel::avx512 && __builtin_cpu_supports("avx512bf16")) return &avx512_bf16::convolve<T>;
  }
#endif
  return nullptr;
}

bool conv_serves(bool bfloat16) {
  return bfloat16 ? conv_kernel<uint16_t>() != nullptr : conv_kernel<float>() != nullptr;
}

// The convolution without its tensors, of weight [filters, C, size, size].
template <typename T>
Conv<T> conv_shape(int64_t images, int64_t channels, int64_t filters, int64_t height, int64_t width, int64_t size) {
  Conv<T> conv{};
  conv.images = images;
  conv.channels = channels;
  conv.filters = filters;
  conv.height = height;
  conv.width = width;
  conv.is_3x3 = size == 3;
  return conv;
}

void check_conv_type(const char* op, const char* name, const Tensor& t) {
  PYDET_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::BFloat16, op, ": ", name,
              " must be float32 or bfloat16, got ", dtype_of(t));
}

// Body sees `scalar_t`.
#define PYDET_DISPATCH_CONV(TYPE, ...) \
  do {                                 \
    if ((TYPE) == ScalarType::Float) { \
      using scalar_t = float;          \
      __VA_ARGS__();                   \
    } else {                           \
      using scalar_t = uint16_t;       \
      __VA_ARGS__();                   \
    }                                  \
  } while (0)

double conv_number(double x) { return x; }
double conv_number(float x) { return x; }
double conv_number(uint16_t x) { return float_of_bfloat16(x); }

void conv_round(double x, float* to) { *to = static_cast<float>(x); }
void conv_round(double x, uint16_t* to) { *to = torch::headeronly::BFloat16(static_cast<float>(x)).x; }

// G w, of F(2, 3): what three numbers of a filter, `step` apart, become.
template <typename T>
std::array<double, 4> transformed_line(const T* w, int64_t step) {
  const double first = conv_number(w[0]), last = conv_number(w[2 * step]);
  const double outer = (first + last) / 2, inner = conv_number(w[step]) / 2;
  return {first, outer + inner, outer - inner, last};
}

// G w G^T, of F(2 x 2, 3 x 3).
template <typename T>
std::array<double, 16> transformed_filter(const T* w, int64_t row_step, int64_t column_step) {
  double rows[4][3];
  for (int64_t x = 0; x < 3; ++x) {
    const std::array<double, 4> column = transformed_line(w + x * column_step, row_step);
    for (size_t y = 0; y < 4; ++y) rows[y][x] = column[y];
  }
  std::array<double, 16> places;
  for (size_t y = 0; y < 4; ++y) {
    const std::array<double, 4> row = transformed_line(rows[y], 1);
    std::copy(row.begin(), row.end(), places.begin() + 4 * y);
  }
  return places;
}

Tensor conv_weight(const Tensor& weight) {  // [filters, C, 3, 3], [filters, C, 1, 1] or [filters, C]
  check_conv_type("_conv_weight", "weight", weight);
  const int64_t size = weight.dim() == 4 ? weight.size(2) : 1;
  PYDET_CHECK((weight.dim() == 2 || (weight.dim() == 4 && weight.size(3) == size && (size == 1 || size == 3))) &&
                  weight.numel() > 0 && weight.size(1) % 2 == 0,
              "_conv_weight: weight must be [filters, C, 3, 3], [filters, C, 1, 1] or [filters, C], C even and not 0, ",
              "got ", shape_of(weight));
  Tensor out;
  PYDET_DISPATCH_CONV(weight.scalar_type(), [&] {
    const Conv<scalar_t> conv = conv_shape<scalar_t>(0, weight.size(1), weight.size(0), 0, 0, size);
    constexpr int64_t kPaired = sizeof(scalar_t) == 2 ? 2 : 1;
    out = new_dense(weight, {conv.numbers_of_weights()}, weight.scalar_type());
    const scalar_t* data = static_cast<const scalar_t*>(weight.const_data_ptr());
    scalar_t* result = static_cast<scalar_t*>(out.mutable_data_ptr());
    const int64_t row_step = conv.is_3x3 ? weight.stride(2) : 0, column_step = conv.is_3x3 ? weight.stride(3) : 0;
    const int64_t filter_step = weight.stride(0), channel_step = weight.stride(1);
    const int64_t chunks = (conv.channels - 1) / kLaidOutChannels + 1;
    torch::stable::parallel_for(0, conv.panels() * chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t panel = i / chunks, filters = conv.filters_of_panel(panel), first = i % chunks * kLaidOutChannels;
        for (int64_t f = 0; f < filters; ++f) {
          const int64_t filter = panel * kConvFilters + f;
          const bool given = filter < conv.filters;  // else it fills a vector
          for (int64_t c = first; c < std::min(first + kLaidOutChannels, conv.channels); ++c) {
            const scalar_t* from = data + filter * filter_step + c * channel_step;
            scalar_t* to = result + conv.weights_of(panel, 0) + (c / kPaired * filters + f) * kPaired + c % kPaired;
            if (!conv.is_3x3) {
              *to = given ? *from : scalar_t{0};
              continue;
            }
            std::array<double, 16> places{};
            if (given) places = transformed_filter(from, row_step, column_step);
            for (double number : places) {
              conv_round(number, to);
              to += filters * conv.channels;
            }
          }
        }
      }
    });
  });
  return out;
}

Tensor conv_cpu(const Tensor& x,             // [B, C, H, W], channels last
                const Tensor& weight,        // of conv_weight
                std::optional<Tensor> bias,  // [filters]
                int64_t filters, int64_t size, double slope) {
  const ScalarType type = x.scalar_type();
  PYDET_CHECK(size == 1 || size == 3, "_conv: size must be 1 or 3, got ", size);
  PYDET_CHECK(x.dim() == 4 && x.numel() > 0 && x.size(1) % kConvVector == 0,
              "_conv: x must be [B, C, H, W], C a multiple of 16, and not empty, got ", shape_of(x));
  check_conv_type("_conv", "x", x);
  check_channels_last("_conv", "x", x);
  PYDET_CHECK(filters > 0, "_conv: filters must be positive, got ", filters);
  Tensor out = new_channels_last(x, x.size(0), filters, x.size(2), x.size(3));
  PYDET_DISPATCH_CONV(type, [&] {
    const ConvKernel<scalar_t> kernel = conv_kernel<scalar_t>();
    PYDET_CHECK(kernel != nullptr, "_conv: this processor has no kernel for ", dtype_of(x));
    Conv<scalar_t> conv = conv_shape<scalar_t>(x.size(0), x.size(1), filters, x.size(2), x.size(3), size);
    PYDET_CHECK(weight.dim() == 1 && weight.size(0) == conv.numbers_of_weights() && weight.scalar_type() == type,
                "_conv: weight must be ", dtype_of(x), " [", conv.numbers_of_weights(), "], got ", dtype_of(weight),
                " ", shape_of(weight));
    PYDET_CHECK(weight.is_contiguous(), "_conv: weight must be dense, got strides ", list_of(weight.strides()));
    std::vector<float> offsets(static_cast<size_t>(conv.padded_filters()));
    if (bias) {
      PYDET_CHECK(bias->dim() == 1 && bias->size(0) == filters && is_floating(bias->scalar_type()),
                  "_conv: bias must be floating [", filters, "], got ", dtype_of(*bias), " ", shape_of(*bias));
      const Tensor given = as_contiguous(*bias, ScalarType::Float);
      std::copy_n(given.const_data_ptr<float>(), filters, offsets.begin());
    }
    const std::vector<scalar_t> zeros(static_cast<size_t>(conv.channels));
    conv.slope = static_cast<float>(slope);
    conv.x = static_cast<const scalar_t*>(x.const_data_ptr());
    conv.weights = static_cast<const scalar_t*>(weight.const_data_ptr());
    conv.bias = offsets.data();
    conv.zeros = zeros.data();
    conv.out = static_cast<scalar_t*>(out.mutable_data_ptr());
    conv.tiles_of_block = 1;
    const bool near = conv.numbers_of_weights() * static_cast<int64_t>(sizeof(scalar_t)) <= kNearWeights;
    const int64_t most = near && conv.is_3x3 ? kFewTiles : kManyTiles;
    conv.tiles_of_block = std::clamp<int64_t>(kMaxScratch / conv.bytes_of_scratch(), 1, most);
    conv.tiles_of_block = (conv.tiles() - 1) / conv.blocks() + 1;  // blocks of one size
    torch::stable::parallel_for(0, conv.blocks() * conv.panels(), 1, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<CacheLine[]> scratch(new CacheLine[static_cast<size_t>(conv.bytes_of_scratch() / 64 + 1)]);
      kernel(conv, begin, end, reinterpret_cast<char*>(scratch.get()));
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("_conv(Tensor x, Tensor weight, Tensor? bias, int filters, int size, float slope) -> Tensor");
  m.def("_conv_weight(Tensor weight) -> Tensor");
  m.def("_conv_serves(bool bfloat16) -> bool");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("_conv", TORCH_BOX(&conv_cpu));
  m.impl("_conv_weight", TORCH_BOX(&conv_weight));
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CompositeExplicitAutograd, m) { m.impl("_conv_serves", TORCH_BOX(&conv_serves)); }

}  // namespace pydet
