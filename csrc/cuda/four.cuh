// Rows of four values, a box or its codes, in one access: 16 bytes of float, 8 of half precision, 2 x 16 of double.
#pragma once

#include <cstdint>

#include "cuda_utils.cuh"

namespace pydet {

template <typename T>
struct alignas(sizeof(T) < 4 ? 8 : 16) Four {
  T x1, y1, x2, y2;
};

template <typename T, typename In>
__device__ Four<T> load_four(const In* rows, int64_t i) {
  const Four<In> four = reinterpret_cast<const Four<In>*>(rows)[i];
  return {static_cast<T>(four.x1), static_cast<T>(four.y1), static_cast<T>(four.x2), static_cast<T>(four.y2)};
}

template <typename T>
__device__ void store_four(T* rows, int64_t i, Four<T> four) {
  reinterpret_cast<Four<T>*>(rows)[i] = four;
}

// Contiguous, of a type, and where rows of four lie as they must: a view may begin anywhere.
inline Tensor rows_of_four(const Tensor& t, ScalarType type) {
  const Tensor dense = as_contiguous(t, type);
  return is_aligned(dense.data_ptr()) ? dense : torch::stable::clone(dense);
}

}  // namespace pydet
