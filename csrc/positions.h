// Tensors [..., N] read and written as they lie: every position (all dimensions but the last) has N values, `node`
// apart. Of the positions the innermost ones, `inner` of them, are `lane` apart; the others are counted by an index.
// Rows have node 1; a map [B, N, H, W] seen as [B, H, W, N] has lane 1.
#pragma once

#include <array>
#include <vector>

#include "checks/tree.h"

namespace pydet {

template <int kTensors>
struct Positions {
  int64_t outer = 1, inner = 1;
  int64_t lane[kTensors] = {}, node[kTensors] = {};
  int outer_dims = 0;
  int64_t sizes[kMaxDims] = {}, strides[kMaxDims][kTensors] = {};  // of the outer dimensions, the last one first

  // Of the first value of an outer position of one of the tensors. A GPU divides 32-bit integers several times faster.
  template <typename Index>
  PYDET_HD int64_t offset(int tensor, Index index) const {
    int64_t at = 0;
    for (int d = 0; d < outer_dims; ++d) {
      const Index size = static_cast<Index>(sizes[d]);
      at += static_cast<int64_t>(index % size) * strides[d][tensor];
      index /= size;
    }
    return at;
  }
};

// Some nodes of some positions of a tensor.
template <typename V>
struct PositionValues {
  V* data;
  int64_t lane, node;
};

template <typename V, int kTensors, typename Index>
PYDET_HD PositionValues<V> values_at(V* data, const Positions<kTensors>& p, int tensor, Index outer, int64_t inner,
                                     int64_t node = 0) {
  data += p.offset(tensor, outer) + inner * p.lane[tensor] + node * p.node[tensor];
  return {data, p.lane[tensor], p.node[tensor]};
}

// Of tensors of one shape. Dimensions that follow each other in all of them count as one.
template <int kTensors>
Positions<kTensors> positions_of(const std::array<const Tensor*, kTensors>& tensors) {
  Positions<kTensors> p;
  const Tensor& first = *tensors[0];
  for (int t = 0; t < kTensors; ++t) p.node[t] = tensors[t]->stride(-1);
  int64_t* last_size = nullptr;
  int64_t* last_strides = nullptr;
  for (int64_t d = first.dim() - 2; d >= 0; --d) {
    const int64_t size = first.size(d);
    if (size == 1) continue;
    bool follows = last_size != nullptr;
    for (int t = 0; follows && t < kTensors; ++t) follows = tensors[t]->stride(d) == *last_size * last_strides[t];
    if (follows) {
      *last_size *= size;
      continue;
    }
    last_size = last_size == nullptr ? &p.inner : &p.sizes[p.outer_dims];
    last_strides = last_size == &p.inner ? p.lane : p.strides[p.outer_dims++];
    *last_size = size;
    for (int t = 0; t < kTensors; ++t) last_strides[t] = tensors[t]->stride(d);
  }
  for (int d = 0; d < p.outer_dims; ++d) p.outer *= p.sizes[d];
  return p;
}

// Uninitialised, of the shape of `like` and its order in memory: torch.empty_like, which the shapes for the compiler
// are made with.
inline Tensor new_alike(const Tensor& like, ScalarType type) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(like),         from(std::optional<ScalarType>(type)),
                                    from(std::nullopt), from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  Tensor out = torch::stable::detail::to<Tensor>(stack[0]);
  if (out.is_cpu()) prefer_huge_pages(out.data_ptr(), out.numel() * static_cast<int64_t>(out.element_size()));
  return out;
}

}  // namespace pydet
