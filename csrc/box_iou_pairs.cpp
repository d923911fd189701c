#include "box_iou_pairs.h"

#include "box_iou_kinds.h"

#define PYDET_KERNELS "cpu/box_iou_pairs.h"
#include "cpu_levels.h"

namespace pydet {

template <typename T, typename Out>
void iou_of_pairs(IouKind kind, const Box<T>* boxes1, const Box<T>* boxes2, int64_t n, const PairRules<T>& rules,
                  Out* out) {
  dispatch_kind(kind, [&](auto constant) {
    PYDET_CPU_CALL(box_iou_pairs<decltype(constant)::value>, boxes1, boxes2, n, rules, out);
  });
}

template <typename T>
void iou_gradient_of_pairs(IouKind kind, const Box<T>* boxes1, const Box<T>* boxes2, int64_t n,
                           const PairRules<T>& rules, const T* gradients, int64_t stride, T scale, Box<T>* out1,
                           Box<T>* out2) {
  dispatch_kind(kind, [&](auto constant) {
    torch::stable::parallel_for(0, n, kPairsPerTask, [&](int64_t begin, int64_t end) {
      PYDET_CPU_CALL(box_iou_pairs_backward<decltype(constant)::value>, boxes1 + begin, boxes2 + begin, end - begin,
                     rules, gradients + begin * stride, stride, scale, out1 + begin, out2 + begin);
    });
  });
}

using Boxes = const Box<float>*;
using WideBoxes = const Box<double>*;
template void iou_of_pairs(IouKind, Boxes, Boxes, int64_t, const PairRules<float>&, float*);
template void iou_of_pairs(IouKind, WideBoxes, WideBoxes, int64_t, const PairRules<double>&, double*);
template void iou_of_pairs(IouKind, WideBoxes, WideBoxes, int64_t, const PairRules<double>&, float*);
template void iou_gradient_of_pairs(IouKind, Boxes, Boxes, int64_t, const PairRules<float>&, const float*, int64_t,
                                    float, Box<float>*, Box<float>*);
template void iou_gradient_of_pairs(IouKind, WideBoxes, WideBoxes, int64_t, const PairRules<double>&, const double*,
                                    int64_t, double, Box<double>*, Box<double>*);

}  // namespace pydet
