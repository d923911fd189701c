#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "checks/common.h"
#include "math/scalar.h"

namespace pydet {
namespace {

constexpr int64_t kConvFilters = 64;  // of a panel of the weights
constexpr int64_t kConvVector = 16;   // channels and filters are taken by so many

// Rows and columns of its first pixel of the result; the tile it is computed from begins a pixel before.
struct Conv3x3Tile {
  int64_t image, y, x;
};

// The convolution as what the kernels of all instruction sets read; bfloat16 is uint16_t.
template <typename T>
struct Conv3x3 {
  int64_t images, channels, filters, height, width;
  int64_t tiles_of_block;
  float slope;
  const T* x;        // [B, H, W, C]
  const T* weights;  // panel after panel, see weights_of
  const float* bias;  // of whole vectors
  const T* zeros;    // [C]
  T* out;            // [B, H, W, filters]

  PYDET_HD int64_t tiles_across() const { return (width + 1) / 2; }
  PYDET_HD int64_t tiles_of_image() const { return (height + 1) / 2 * tiles_across(); }
  PYDET_HD int64_t tiles() const { return images * tiles_of_image(); }
  PYDET_HD int64_t blocks() const { return (tiles() + tiles_of_block - 1) / tiles_of_block; }
  PYDET_HD int64_t panels() const { return (filters + kConvFilters - 1) / kConvFilters; }
  PYDET_HD int64_t padded_filters() const { return (filters + kConvVector - 1) / kConvVector * kConvVector; }
  PYDET_HD int64_t filters_of_panel(int64_t panel) const {
    return minimum(padded_filters() - panel * kConvFilters, kConvFilters);
  }

  PYDET_HD Conv3x3Tile tile(int64_t index) const {
    const int64_t place = index % tiles_of_image();
    return {index / tiles_of_image(), place / tiles_across() * 2, place % tiles_across() * 2};
  }
  PYDET_HD Conv3x3Tile next(Conv3x3Tile tile) const {
    tile.x += 2;
    if (tile.x < width) return tile;
    tile = {tile.image, tile.y + 2, 0};
    return tile.y < height ? tile : Conv3x3Tile{tile.image + 1, 0, 0};
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
  // [C, filters of the panel], in bfloat16 [C / 2, filters of the panel, 2].
  PYDET_HD const T* weights_of(int64_t panel, int64_t place) const {
    return weights + (panel * kConvFilters * 16 + place * filters_of_panel(panel)) * channels;
  }
  PYDET_HD int64_t bytes_of_tiles() const { return 16 * tiles_of_block * channels * static_cast<int64_t>(sizeof(T)); }
  PYDET_HD int64_t bytes_of_scratch() const {
    return bytes_of_tiles() + 16 * tiles_of_block * kConvFilters * static_cast<int64_t>(sizeof(float));
  }
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/conv_3x3.h"
#include "cpu_levels.h"

#if PYDET_X86
// One more level: what multiplies pairs of bfloat16 came later than the rest of AVX-512.
PYDET_TARGET_BEGIN("avx512bf16,avx512f,avx512vl,avx512bw,avx512dq,avx512cd,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
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

// Of a block: that often is a weight used when it has been read, and so much is kept between the three steps.
constexpr int64_t kFewTiles = 24, kMaxTiles = 96;
constexpr int64_t kNearWeights = int64_t{2} << 20;  // bytes, which are soon read again
constexpr int64_t kMaxScratch = int64_t{4} << 20;   // bytes, which each thread keeps

template <typename T>
using Conv3x3Kernel = void (*)(const Conv3x3<T>&, int64_t, int64_t, char*);

// Null where this processor has none.
template <typename T>
Conv3x3Kernel<T> conv_3x3_kernel() {
#if PYDET_X86
  if constexpr (sizeof(T) == sizeof(float)) {
    if (cpu_level() == CpuLevel::avx512) return &avx512::conv_3x3<T>;
    if (cpu_level() == CpuLevel::avx2) return &avx2::conv_3x3<T>;
  } else if (cpu_level() == CpuLevel::avx512 && __builtin_cpu_supports("avx512bf16")) {
    return &avx512_bf16::conv_3x3<T>;
  }
#endif
  return nullptr;
}

bool conv_3x3_serves(bool bfloat16) {
  return bfloat16 ? conv_3x3_kernel<uint16_t>() != nullptr : conv_3x3_kernel<float>() != nullptr;
}

// Kept from call to call: to map it anew would take longer than small convolutions.
char* conv_3x3_scratch(int64_t bytes) {
  thread_local std::vector<char> memory;
  if (static_cast<int64_t>(memory.size()) < bytes + 64) memory.resize(static_cast<size_t>(bytes) + 64);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory.data());
  return memory.data() + ((begin + 63) / 64 * 64 - begin);
}

template <typename T>
void conv_3x3_cpu_of(Conv3x3<T> conv, const Tensor& x, const Tensor& weight, const Tensor& out,
                     const std::vector<float>& bias) {
  const Conv3x3Kernel<T> kernel = conv_3x3_kernel<T>();
  PYDET_CHECK(kernel != nullptr, "_conv_3x3: this processor has no kernel for ", dtype_of(x));
  const std::vector<T> zeros(static_cast<size_t>(conv.channels));
  conv.x = static_cast<const T*>(x.data_ptr());
  conv.weights = static_cast<const T*>(weight.data_ptr());
  conv.out = static_cast<T*>(out.data_ptr());
  conv.bias = bias.data();
  conv.zeros = zeros.data();
  conv.tiles_of_block = 1;
  const int64_t tiles = weight.numel() * static_cast<int64_t>(sizeof(T)) > kNearWeights ? kMaxTiles : kFewTiles;
  conv.tiles_of_block = std::clamp<int64_t>(kMaxScratch / conv.bytes_of_scratch(), 1, tiles);
  conv.tiles_of_block = (conv.tiles() - 1) / conv.blocks() + 1;  // blocks of one size
  torch::stable::parallel_for(0, conv.blocks() * conv.panels(), 1, [&](int64_t begin, int64_t end) {
    kernel(conv, begin, end, conv_3x3_scratch(conv.bytes_of_scratch()));
  });
}

Tensor conv_3x3_cpu(const Tensor& x,       // [B, C, H, W], channels last
                    const Tensor& weight,  // of pydet.ops.conv_3x3.transformed
                    std::optional<Tensor> bias,  // [filters]
                    int64_t filters, double slope) {
  const ScalarType type = x.scalar_type();
  PYDET_CHECK(x.dim() == 4 && x.numel() > 0 && x.size(1) % kConvVector == 0,
              "_conv_3x3: x must be [B, C, H, W], C a multiple of 16, and not empty, got ", shape_of(x));
  PYDET_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16,
              "_conv_3x3: x must be float32 or bfloat16, got ", dtype_of(x));
  check_channels_last("_conv_3x3", "x", x);
  PYDET_CHECK(filters > 0, "_conv_3x3: filters must be positive, got ", filters);
  Conv3x3<float> shape{x.size(0), x.size(1), filters, x.size(2), x.size(3)};
  const int64_t numbers = 16 * shape.channels * shape.padded_filters();
  PYDET_CHECK(weight.dim() == 1 && weight.size(0) == numbers && weight.scalar_type() == type,
              "_conv_3x3: weight must be ", dtype_of(x), " [", numbers, "], got ", dtype_of(weight), " ",
              shape_of(weight));
  PYDET_CHECK(weight.is_contiguous(), "_conv_3x3: weight must be dense, got strides ", list_of(weight.strides()));
  std::vector<float> offsets(static_cast<size_t>(shape.padded_filters()));
  if (bias) {
    PYDET_CHECK(bias->dim() == 1 && bias->size(0) == filters && is_floating(bias->scalar_type()),
                "_conv_3x3: bias must be floating [", filters, "], got ", dtype_of(*bias), " ", shape_of(*bias));
    const Tensor given = as_contiguous(*bias, ScalarType::Float);
    std::copy_n(given.const_data_ptr<float>(), filters, offsets.begin());
  }
  Tensor out = new_channels_last(x, shape.images, filters, shape.height, shape.width);
  if (type == ScalarType::Float) {
    shape.slope = static_cast<float>(slope);
    conv_3x3_cpu_of<float>(shape, x, weight, out, offsets);
  } else {
    Conv3x3<uint16_t> halves{shape.images, shape.channels, filters, shape.height, shape.width};
    halves.slope = static_cast<float>(slope);
    conv_3x3_cpu_of<uint16_t>(halves, x, weight, out, offsets);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("_conv_3x3(Tensor x, Tensor weight, Tensor? bias, int filters, float slope) -> Tensor");
  m.def("_conv_3x3_serves(bool bfloat16) -> bool");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("_conv_3x3", TORCH_BOX(&conv_3x3_cpu)); }
STABLE_TORCH_LIBRARY_IMPL(pydet, CompositeExplicitAutograd, m) {
  m.impl("_conv_3x3_serves", TORCH_BOX(&conv_3x3_serves));
}

}  // namespace pydet
