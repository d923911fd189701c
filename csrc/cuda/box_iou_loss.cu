// generalized_box_iou_loss, distance_box_iou_loss, complete_box_iou_loss and their gradients.
#include <tuple>

#include "../box_iou_kinds.h"
#include "block_sum.cuh"
#include "box_iou_pairs.cuh"

namespace pydet {
namespace {

constexpr int kPairsOfThread = 8;  // of a sum: a block's goes to memory, 8 bytes for 2,048 pairs

template <IouKind kind, typename T>
__global__ void __launch_bounds__(kPairsOfBlock)
    sum_kernel(const T* boxes1, const T* boxes2, int64_t n, PairRules<T> rules, double* sums) {  // [blocks]
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kPairsOfBlock * kPairsOfThread + threadIdx.x;
  __shared__ double of_warps[kPairsOfBlock / 32];
  double sum = 0;
  for (int k = 0; k < kPairsOfThread; ++k) {
    const int64_t i = first + k * kPairsOfBlock;
    if (i < n) sum += static_cast<double>(pair_value<kind>(boxes1, boxes2, i, rules));
  }
  sum = block_sum<kPairsOfBlock>(sum, of_warps);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block.
template <typename T>
__global__ void __launch_bounds__(kPairsOfBlock)
    total_kernel(const double* sums, int64_t count, double divisor, T* out) {
  const double sum = total_of<kPairsOfBlock>(sums, count);
  if (threadIdx.x == 0) *out = static_cast<T>(sum / divisor);
}

template <IouKind kind, typename T>
void launch_losses(const Tensor& boxes1, const Tensor& boxes2, Reduction reduction, double eps, Tensor& out,
                   cudaStream_t stream) {
  const PairRules<T> rules{loss_rules<T>(kind, eps), BoxFormat::xyxy, true};
  if (reduction == Reduction::none) return launch_pairs<kind, T, T>(boxes1, boxes2, rules, out, stream);
  const int64_t n = boxes1.numel() / 4, in_block = kPairsOfBlock * kPairsOfThread;
  const int64_t blocks = (n + in_block - 1) / in_block;
  Tensor sums = new_dense(out, {blocks}, ScalarType::Double);
  if (blocks > 0) {
    launch(sum_kernel<kind, T>, dim3(static_cast<unsigned>(blocks)), dim3(kPairsOfBlock), 0, stream,
           boxes1.const_data_ptr<T>(), boxes2.const_data_ptr<T>(), n, rules, sums.mutable_data_ptr<double>());
  }
  const double divisor = reduction == Reduction::mean && n > 0 ? static_cast<double>(n) : 1.0;
  launch(total_kernel<T>, dim3(1), dim3(kPairsOfBlock), 0, stream, sums.const_data_ptr<double>(), blocks, divisor,
         out.mutable_data_ptr<T>());
}

Tensor box_iou_loss_of(const char* op, IouKind kind,
                       const Tensor& boxes1,  // [..., 4]
                       const Tensor& boxes2,  // [..., 4]
                       const std::string& reduction, double eps) {
  const Reduction how = check_box_iou_loss(op, boxes1, boxes2, reduction);
  const DeviceGuard guard(boxes1.get_device_index());
  const ScalarType type = wide_dtype(boxes1, boxes2);
  Tensor out = new_dense(boxes1, losses_shape(boxes1, how), type);
  if (out.numel() == 0) return out;
  const cudaStream_t stream = current_stream(boxes1);
  const Tensor dense1 = as_contiguous(boxes1, type), dense2 = as_contiguous(boxes2, type);
  dispatch_kind_of_loss(kind, [&](auto constant) {
    constexpr IouKind k = decltype(constant)::value;
    if (type == ScalarType::Double) {
      launch_losses<k, double>(dense1, dense2, how, eps, out, stream);
    } else {
      launch_losses<k, float>(dense1, dense2, how, eps, out, stream);
    }
  });
  return out;
}

using Operators = IouLossOperators<box_iou_loss_of>;

template <IouKind kind, typename T>
void launch_loss_gradients(const Tensor& gradient, const Tensor& boxes1, const Tensor& boxes2, Reduction reduction,
                           double eps, Tensor& out1, Tensor& out2, cudaStream_t stream) {
  const PairRules<T> rules{loss_rules<T>(kind, eps), BoxFormat::xyxy, true};
  const T scale = reduction == Reduction::mean ? T(1) / static_cast<T>(boxes1.numel() / 4) : T(1);
  launch_pairs_gradient<kind>(boxes1, boxes2, rules, gradient, reduction == Reduction::none ? 1 : 0, scale, out1, out2,
                              stream);
}

// Gradients of both boxes in the type of the arithmetic, float or double.
std::tuple<Tensor, Tensor> box_iou_loss_backward_cuda(const Tensor& gradient,  // [...], or [] where it is reduced
                                                      const Tensor& boxes1,    // [..., 4]
                                                      const Tensor& boxes2,    // [..., 4]
                                                      Text op, Text reduction, double eps) {
  const IouKind kind = kind_of(kIouLosses, op, "_box_iou_loss_backward");
  const Reduction how = check_box_iou_loss_backward(op.c_str(), gradient, boxes1, boxes2, reduction);
  const DeviceGuard guard(boxes1.get_device_index());
  const ScalarType type = wide_dtype(boxes1, boxes2);
  Tensor out1 = new_dense(boxes1, shape_vector(boxes1), type), out2 = new_dense(boxes2, shape_vector(boxes2), type);
  if (out1.numel() == 0) return {out1, out2};
  const cudaStream_t stream = current_stream(boxes1);
  const Tensor dense1 = as_contiguous(boxes1, type), dense2 = as_contiguous(boxes2, type);
  const Tensor dense = as_contiguous(gradient, type);
  dispatch_kind_of_loss(kind, [&](auto constant) {
    constexpr IouKind k = decltype(constant)::value;
    if (type == ScalarType::Double) {
      launch_loss_gradients<k, double>(dense, dense1, dense2, how, eps, out1, out2, stream);
    } else {
      launch_loss_gradients<k, float>(dense, dense1, dense2, how, eps, out1, out2, stream);
    }
  });
  return {out1, out2};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("generalized_box_iou_loss", TORCH_BOX(&Operators::generalized));
  m.impl("distance_box_iou_loss", TORCH_BOX(&Operators::distance));
  m.impl("complete_box_iou_loss", TORCH_BOX(&Operators::complete));
  m.impl("_box_iou_loss_backward", TORCH_BOX(&box_iou_loss_backward_cuda));
}

}  // namespace pydet
