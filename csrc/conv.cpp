#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "conv.h"
#include "widen.h"

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

// What takes it, which is `picture` where nothing else does.
ConvWay conv_way(const Tensor& x, int64_t size, int64_t stride, int64_t padding) {
  const bool keeps_size = stride == 1 && padding == size / 2 && x.size(1) % kConvVector == 0;
  if (keeps_size && size == 3) return ConvWay::winograd;
  return keeps_size && size == 1 ? ConvWay::pixels : ConvWay::picture;
}

// Of `winograd` and `pixels`.
template <typename T>
int64_t tiles_of_block(Conv<T> conv) {
  conv.tiles_of_block = 1;
  const int64_t most = conv.way == ConvWay::winograd && !conv.weights_are_far() ? kFewTiles : kManyTiles;
  conv.tiles_of_block = std::clamp<int64_t>(kMaxScratch / conv.bytes_of_scratch(), 1, most);
  return (conv.tiles() - 1) / conv.blocks() + 1;  // blocks of one size
}

// The bias as numbers to add, 0 for what is of no filter.
std::vector<float> conv_offsets(const std::optional<Tensor>& bias, int64_t filters, int64_t padded_filters) {
  std::vector<float> offsets(static_cast<size_t>(padded_filters));
  if (!bias) return offsets;
  PYDET_CHECK(bias->dim() == 1 && bias->size(0) == filters && is_floating(bias->scalar_type()),
              "_conv: bias must be floating [", filters, "], got ", dtype_of(*bias), " ", shape_of(*bias));
  PYDET_DISPATCH_FLOATING(bias->scalar_type(), "_conv", [&] {
    const scalar_t* numbers = bias->const_data_ptr<scalar_t>();
    const int64_t step = bias->stride(0);
    for (int64_t f = 0; f < filters; ++f) {
      offsets[static_cast<size_t>(f)] = static_cast<float>(widen(numbers[f * step]));
    }
  });
  return offsets;
}

Tensor conv_cpu(const Tensor& x,             // [B, C, H, W], channels last
                const Tensor& weight,        // of conv_weight
                std::optional<Tensor> bias,  // [filters]
                int64_t filters, int64_t size, int64_t stride, int64_t padding, double slope, bool pools) {
  const ScalarType type = x.scalar_type();
  PYDET_CHECK(x.dim() == 4 && x.numel() > 0, "_conv: x must be [B, C, H, W] and not empty, got ", shape_of(x));
  check_conv_type("_conv", "x", x);
  check_channels_last("_conv", "x", x);
  PYDET_CHECK(filters > 0, "_conv: filters must be positive, got ", filters);
  PYDET_CHECK(size > 0 && size <= kMaxPictureSize && stride > 0 && stride <= size && padding >= 0 && padding < size,
              "_conv: size must be 1 to ", kMaxPictureSize, ", stride 1 to size, padding 0 to size - 1, got ", size,
              ", ", stride, ", ", padding);
  PYDET_CHECK(x.size(2) + 2 * padding >= size && x.size(3) + 2 * padding >= size, "_conv: a filter of ", size,
              " does not fit into x ", shape_of(x), " padded by ", padding);
  const ConvWay way = conv_way(x, size, stride, padding);
  PYDET_CHECK(way != ConvWay::picture || x.size(1) <= kPictureChannels,
              "_conv: C must be a multiple of 16 where size is 1 or 3 and the result as large as x, else at most ",
              kPictureChannels, ", got ", x.size(1), " with size ", size, ", stride ", stride, ", padding ", padding);
  PYDET_CHECK(way != ConvWay::pixels || !pools, "_conv: the results of size 1 are not pooled");
  Tensor out;
  PYDET_DISPATCH_CONV(type, [&] {
    const ConvKernel<scalar_t> kernel = conv_kernel<scalar_t>();
    PYDET_CHECK(kernel != nullptr, "_conv: this processor has no kernel for ", dtype_of(x));
    Conv<scalar_t> conv{};
    conv.way = way;
    conv.images = x.size(0);
    conv.channels = x.size(1);
    conv.filters = filters;
    conv.height = x.size(2);
    conv.width = x.size(3);
    conv.size = size;
    conv.stride = stride;
    conv.padding = padding;
    conv.pools = pools;
    conv.rows = (conv.height + 2 * padding - size) / stride + 1;
    conv.columns = (conv.width + 2 * padding - size) / stride + 1;
    conv.out_height = pools ? (conv.rows + 1) / 2 : conv.rows;
    conv.out_width = pools ? (conv.columns + 1) / 2 : conv.columns;
    PYDET_CHECK(weight.dim() == 1 && weight.size(0) == conv.numbers_of_weights() && weight.scalar_type() == type,
                "_conv: weight must be ", dtype_of(x), " [", conv.numbers_of_weights(), "], got ", dtype_of(weight),
                " ", shape_of(weight));
    PYDET_CHECK(weight.is_contiguous(), "_conv: weight must be dense, got strides ", list_of(weight.strides()));
    const std::vector<float> offsets = conv_offsets(bias, filters, conv.padded_filters());
    out = new_channels_last(x, conv.images, filters, conv.out_height, conv.out_width);
    const std::vector<scalar_t> zeros(static_cast<size_t>(conv.channels));
    conv.slope = static_cast<float>(slope);
    conv.x = static_cast<const scalar_t*>(x.const_data_ptr());
    conv.weights = static_cast<const scalar_t*>(weight.const_data_ptr());
    conv.bias = offsets.data();
    conv.zeros = zeros.data();
    conv.out = static_cast<scalar_t*>(out.mutable_data_ptr());
    if (way != ConvWay::picture) conv.tiles_of_block = tiles_of_block(conv);
    torch::stable::parallel_for(0, conv.blocks() * conv.panels(), 1, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<CacheLine[]> scratch(new CacheLine[static_cast<size_t>(conv.bytes_of_scratch() / 64 + 1)]);
      kernel(conv, begin, end, reinterpret_cast<char*>(scratch.get()));
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "_conv(Tensor x, Tensor weight, Tensor? bias, int filters, int size, int stride, int padding, float slope, "
      "bool pools) -> Tensor");
  m.def("_conv_serves(bool bfloat16) -> bool");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("_conv", TORCH_BOX(&conv_cpu)); }
STABLE_TORCH_LIBRARY_IMPL(pydet, CompositeExplicitAutograd, m) { m.impl("_conv_serves", TORCH_BOX(&conv_serves)); }

}  // namespace pydet
