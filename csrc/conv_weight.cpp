#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <array>

#include "conv.h"

namespace pydet {
namespace {

constexpr int64_t kLaidOutChannels = 64;  // at a time: they are read side by side, and written apart

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
                  weight.numel() > 0,
              "_conv_weight: weight must be [filters, C, 3, 3], [filters, C, 1, 1] or [filters, C] and not empty, got ",
              shape_of(weight));
  PYDET_CHECK(weight.scalar_type() == ScalarType::Float || weight.size(1) % 2 == 0,
              "_conv_weight: C of a bfloat16 weight must be even, got ", shape_of(weight));
  Tensor out;
  PYDET_DISPATCH_CONV(weight.scalar_type(), [&] {
    Conv<scalar_t> conv{};
    conv.way = size == 3 ? ConvWay::winograd : ConvWay::pixels;
    conv.filters = weight.size(0);
    conv.channels = weight.size(1);
    const bool is_3x3 = size == 3;
    constexpr int64_t kPaired = sizeof(scalar_t) == 2 ? 2 : 1;
    out = new_dense(weight, {conv.numbers_of_weights()}, weight.scalar_type());
    const scalar_t* data = static_cast<const scalar_t*>(weight.const_data_ptr());
    scalar_t* result = static_cast<scalar_t*>(out.mutable_data_ptr());
    const int64_t row_step = is_3x3 ? weight.stride(2) : 0, column_step = is_3x3 ? weight.stride(3) : 0;
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
            if (!is_3x3) {
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

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) { m.def("_conv_weight(Tensor weight) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("_conv_weight", TORCH_BOX(&conv_weight)); }

}  // namespace pydet
