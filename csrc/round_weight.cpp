#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>

#include "torch_utils.h"

namespace pydet {
namespace {

constexpr int64_t kRoundedPerTask = 1 << 14;

// Each weight of a filter also makes up for what the rounding of those before it has added.
template <typename Out>
void round_filter(const float* weights, int64_t count, Out* rounded) {
  double owed = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double wanted = static_cast<double>(weights[i]) + owed;
    rounded[i] = static_cast<Out>(static_cast<float>(wanted));
    // What is owed must not take the largest number of all beyond itself.
    const Out alone = static_cast<Out>(weights[i]);
    if (std::isinf(static_cast<float>(rounded[i])) && !std::isinf(static_cast<float>(alone))) rounded[i] = alone;
    const double error = wanted - static_cast<double>(static_cast<float>(rounded[i]));
    owed = std::isfinite(error) ? error : 0;
  }
}

Tensor round_weight_cpu(const Tensor& weight, bool bfloat16) {
  PYDET_CHECK(weight.dim() >= 1 && weight.scalar_type() == ScalarType::Float,
              "_round_weight: weight must be float32 [filters, ...], got ", dtype_of(weight), " ", shape_of(weight));
  const Tensor dense = as_contiguous(weight, ScalarType::Float);
  const Tensor out = new_dense(weight, shape_vector(weight), bfloat16 ? ScalarType::BFloat16 : ScalarType::Half);
  if (weight.numel() == 0) return out;
  const int64_t filters = weight.size(0), count = weight.numel() / filters;
  const float* weights = dense.const_data_ptr<float>();
  const auto round_to = [&](auto* rounded) {
    torch::stable::parallel_for(0, filters, kRoundedPerTask / count + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) round_filter(weights + i * count, count, rounded + i * count);
    });
  };
  if (bfloat16) {
    round_to(out.mutable_data_ptr<torch::headeronly::BFloat16>());
  } else {
    round_to(out.mutable_data_ptr<torch::headeronly::Half>());
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) { m.def("_round_weight(Tensor weight, bool bfloat16) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("_round_weight", TORCH_BOX(&round_weight_cpu)); }

}  // namespace pydet
