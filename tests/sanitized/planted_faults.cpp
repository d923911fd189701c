// One fault of each kind that .ci/sanitize.py must be told of, in an operator like any other.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>

using torch::stable::Tensor;

namespace {

Tensor planted(const Tensor& input, const std::string& fault) {
  Tensor out = torch::stable::empty_like(input);
  const auto* in = static_cast<const int32_t*>(input.const_data_ptr());
  auto* to = static_cast<int32_t*>(out.mutable_data_ptr());
  const int64_t n = input.numel();
  if (fault == "read_beyond") {
    for (int64_t i = 0; i < n; ++i) to[i] = in[i + 1];
  } else if (fault == "overflow") {
    for (int64_t i = 0; i < n; ++i) to[i] = in[i] + 1;
  } else if (fault == "race") {
    torch::stable::parallel_for(0, n, 1, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[0] += in[i];
    });
  } else {
    torch::stable::parallel_for(0, n, 1, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] = in[i];
    });
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY(pydet_planted, m) { m.def("planted(Tensor input, str fault) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(pydet_planted, CPU, m) { m.impl("planted", TORCH_BOX(&planted)); }
