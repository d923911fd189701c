#include "softmax_focal_loss.cuh"

#include <algorithm>
#include <optional>
#include <vector>

namespace pydet {
namespace {

template <typename T, typename In>
FocalOutputs softmax_focal_as(FocalWanted wanted, const Tensor* grad, const Tensor& inputs, const Tensor& targets,
                              double gamma, double alpha, const std::optional<Tensor>& weight, Reduction reduction) {
  const int64_t rows = inputs.size(0);
  const bool each = reduction == Reduction::none;
  FocalOutputs outputs = new_focal_outputs(wanted, each ? std::vector<int64_t>{rows} : std::vector<int64_t>{}, inputs);
  if (rows == 0 && (each || wanted == FocalWanted::gradient)) return outputs;
  const cudaStream_t stream = current_stream(inputs);
  const Tensor logits = as_contiguous(inputs, inputs.scalar_type()), classes = as_contiguous(targets, ScalarType::Long);
  const Tensor weights = weight ? as_contiguous(*weight, kDtype<T>) : inputs;
  const Tensor upstream = grad != nullptr ? as_contiguous(*grad, kDtype<T>) : inputs;
  const int64_t blocks = (rows + kRowsOfBlock - 1) / kRowsOfBlock;
  const double share = reduction == Reduction::mean ? 1.0 / static_cast<double>(std::max<int64_t>(rows, 1)) : 1.0;
  Tensor sums;

  SoftmaxFocalJob<T, In> job{};
  job.inputs = logits.const_data_ptr<In>();
  job.classes = classes.const_data_ptr<int64_t>();
  job.rows = rows;
  job.num_classes = static_cast<int>(inputs.size(1));
  job.weight = weight ? weights.const_data_ptr<T>() : nullptr;
  job.alpha = static_cast<T>(alpha < 0 ? 1 : alpha);
  job.gamma = static_cast<T>(gamma);
  job.scale = static_cast<T>(share);
  if (grad != nullptr) job.upstream = {upstream.const_data_ptr<T>(), !each};
  if (wanted != FocalWanted::loss) job.gradients = outputs.gradient.mutable_data_ptr<In>();
  if (wanted != FocalWanted::gradient && each) job.losses = outputs.loss.mutable_data_ptr<T>();
  if (wanted != FocalWanted::gradient && !each) {
    sums = new_dense(inputs, {blocks}, ScalarType::Double);
    job.sums = sums.mutable_data_ptr<double>();
  }
  job.staged = is_aligned(job.inputs) && is_aligned(job.gradients) && job.num_classes <= kMostStaged;
  if (blocks > 0) {
    const size_t shared = job.staged ? size_t{16} * kWarps * static_cast<size_t>(job.num_classes) : 0;
    launch(job.num_classes <= kLanes * kHeld ? softmax_focal_kernel<true, T, In> : softmax_focal_kernel<false, T, In>,
           dim3(static_cast<unsigned>(blocks)), dim3(kFocalThreads), shared, stream, job);
  }
  if (wanted != FocalWanted::gradient && !each) {
    launch_focal_total(sums, share, nullptr, outputs.loss.mutable_data_ptr<T>(), stream);
  }
  return outputs;
}

FocalOutputs softmax_focal(FocalWanted wanted, const Tensor* grad,
                           const Tensor& inputs,   // [N, C]
                           const Tensor& targets,  // [N]
                           double gamma, double alpha,
                           std::optional<Tensor> weight,  // [C]
                           Text reduction_name) {
  const Reduction reduction = check_softmax_focal_loss(grad, inputs, targets, gamma, alpha, weight, reduction_name);
  PYDET_CHECK(inputs.size(1) < int64_t{1} << 31, "softmax_focal_loss: inputs must have fewer than 2^31 classes, got ",
              shape_of(inputs));
  const DeviceGuard guard(inputs.get_device_index());
  FocalOutputs outputs;
  PYDET_DISPATCH_FLOATING(inputs.scalar_type(), "softmax_focal_loss", [&] {
    outputs =
        softmax_focal_as<Wide<scalar_t>, scalar_t>(wanted, grad, inputs, targets, gamma, alpha, weight, reduction);
  });
  return outputs;
}

using Operators = FocalOperators<softmax_focal>;

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("softmax_focal_loss", TORCH_BOX(&Operators::loss));
  m.impl("_softmax_focal_loss_with_gradient", TORCH_BOX(&Operators::with_gradient));
  m.impl("_softmax_focal_loss_backward", TORCH_BOX(&Operators::backward));
}

}  // namespace pydet
