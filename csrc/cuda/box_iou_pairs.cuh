// Boxes of two sets at the same place: similarities, losses and their gradients, one pair a thread. What they read and
// write, 36 to 68 bytes a pair, takes longer than the arithmetic.
#pragma once

#include "../box_iou_pairs.h"
#include "box_iou.cuh"

namespace pydet {

constexpr int kPairsOfBlock = 256;

template <IouKind kind, typename T>
__device__ T pair_value(const T* boxes1, const T* boxes2, int64_t i, const PairRules<T>& rules) {
  const IouBox<T> a = to_iou_box<kind>(load_box(boxes1, i, rules.format));
  const IouBox<T> b = to_iou_box<kind>(load_box(boxes2, i, rules.format));
  const T similarity = pair_iou<kind>(a, b, rules.iou);
  return rules.loss ? T(1) - similarity : similarity;
}

template <IouKind kind, typename T, typename Out>
__global__ void __launch_bounds__(kPairsOfBlock)
    pairs_kernel(const T* boxes1, const T* boxes2, int64_t n, PairRules<T> rules, Out* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPairsOfBlock + threadIdx.x;
  if (i < n) out[i] = static_cast<Out>(pair_value<kind>(boxes1, boxes2, i, rules));
}

// Pair i has the gradient scale * gradients[i * stride].
template <IouKind kind, typename T>
__global__ void __launch_bounds__(kPairsOfBlock)
    pairs_gradient_kernel(const T* boxes1, const T* boxes2, int64_t n, PairRules<T> rules, const T* gradients,
                          int64_t stride, T scale, T* out1, T* out2) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPairsOfBlock + threadIdx.x;
  if (i >= n) return;
  const T factor = rules.loss ? -scale : scale;
  const IouBox<T> a = to_iou_box<kind>(load_box(boxes1, i, rules.format));
  const IouBox<T> b = to_iou_box<kind>(load_box(boxes2, i, rules.format));
  const IouGradient<T> g = pair_iou_gradient<kind>(a, b, rules.iou, factor * gradients[i * stride]);
  store_box(out1, i, from_xyxy_gradient(corner_gradient<kind>(a.box, g.a, g.area_a, g.angle), rules.format));
  store_box(out2, i, from_xyxy_gradient(corner_gradient<kind>(b.box, g.b, g.area_b, -g.angle), rules.format));
}

inline dim3 blocks_of_pairs(int64_t n) { return dim3(static_cast<unsigned>((n + kPairsOfBlock - 1) / kPairsOfBlock)); }

template <IouKind kind, typename T, typename Out>
void launch_pairs(const Tensor& boxes1, const Tensor& boxes2, const PairRules<T>& rules, Tensor& out,
                  cudaStream_t stream) {
  const int64_t n = boxes1.numel() / 4;
  launch(pairs_kernel<kind, T, Out>, blocks_of_pairs(n), dim3(kPairsOfBlock), 0, stream, boxes1.const_data_ptr<T>(),
         boxes2.const_data_ptr<T>(), n, rules, out.mutable_data_ptr<Out>());
}

template <IouKind kind, typename T>
void launch_pairs_gradient(const Tensor& boxes1, const Tensor& boxes2, const PairRules<T>& rules,
                           const Tensor& gradients, int64_t stride, T scale, Tensor& out1, Tensor& out2,
                           cudaStream_t stream) {
  const int64_t n = boxes1.numel() / 4;
  launch(pairs_gradient_kernel<kind, T>, blocks_of_pairs(n), dim3(kPairsOfBlock), 0, stream, boxes1.const_data_ptr<T>(),
         boxes2.const_data_ptr<T>(), n, rules, gradients.const_data_ptr<T>(), stride, scale, out1.mutable_data_ptr<T>(),
         out2.mutable_data_ptr<T>());
}

}  // namespace pydet
