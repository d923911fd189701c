// Boxes of two sets at the same place: similarities, losses and their gradients.
#pragma once

#include "math/box_iou.h"
#include "torch_utils.h"

namespace pydet {

constexpr int64_t kPairsPerTask = 1 << 12;  // about 20 us of work

template <typename T>
struct PairRules {
  IouRules<T> iou;
  BoxFormat format;
  bool loss;  // 1 - similarity
};

template <typename T>
const Box<T>* as_boxes(const Tensor& dense) {  // [..., 4] of T, contiguous
  return reinterpret_cast<const Box<T>*>(dense.const_data_ptr<T>());
}

template <typename T>
Box<T>* as_mutable_boxes(Tensor& dense) {
  return reinterpret_cast<Box<T>*>(dense.mutable_data_ptr<T>());
}

// out[i] of boxes1[i] and boxes2[i], for n pairs. T, Out: float, float; double, double; double, float.
template <typename T, typename Out>
void iou_of_pairs(IouKind kind, const Box<T>* boxes1, const Box<T>* boxes2, int64_t n, const PairRules<T>& rules,
                  Out* out);

// Gradients of both boxes of n pairs, on all threads. Pair i has the gradient scale * gradients[i * stride].
template <typename T>
void iou_gradient_of_pairs(IouKind kind, const Box<T>* boxes1, const Box<T>* boxes2, int64_t n,
                           const PairRules<T>& rules, const T* gradients, int64_t stride, T scale, Box<T>* out1,
                           Box<T>* out2);

}  // namespace pydet
