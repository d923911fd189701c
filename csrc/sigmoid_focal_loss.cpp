#include <algorithm>
#include <type_traits>
#include <vector>

#include "focal_loss.h"

namespace pydet {
namespace {

constexpr int64_t kFocalBlock = 1024;  // values at a time: logits, labels, losses and gradients stay in the L1 cache
constexpr int64_t kFocalBlocksPerTask = 16;  // about 10 us of work
constexpr int64_t kFocalStep = 64;           // values of the innermost loops
constexpr int64_t kFocalLanes = 16;          // running sums
template <typename T>
inline constexpr T kNoLabels[kFocalBlock] = {};

template <typename T, typename In, typename Target>
struct SigmoidFocalJob {
  FocalParameters<T> parameters;
  const In* inputs;
  const Target* targets;  // one for each logit, or null
  const int64_t* classes;  // one for each row of num_classes logits, or null
  int64_t num_classes;
  T* losses;  // one for each logit, or null
  In* gradients;  // one for each logit, or null
  Upstream<T> upstream;
  T scale;
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/sigmoid_focal_loss.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

// The sum of the losses from sums of blocks, so that the number of threads makes no difference.
template <typename T, typename In, typename Target>
double run_blocks(const SigmoidFocalJob<T, In, Target>& job, int64_t numel) {
  const int64_t blocks = (numel + kFocalBlock - 1) / kFocalBlock;
  std::vector<double> sums(blocks);
  torch::stable::parallel_for(0, blocks, kFocalBlocksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kFocalBlock;
      sums[block] = PYDET_CPU_CALL(sigmoid_focal_block, job, first, std::min(kFocalBlock, numel - first));
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

template <typename T, typename In, typename Target>
FocalOutputs sigmoid_focal_as(FocalWanted wanted, const Tensor* grad, const Tensor& inputs, const Tensor& targets,
                              double alpha, double gamma, Reduction reduction) {
  const Tensor logits = as_contiguous(inputs, inputs.scalar_type());
  const int64_t numel = inputs.numel();
  const bool classes = is_integral(targets.scalar_type());
  const bool each = reduction == Reduction::none;
  SigmoidFocalJob<T, In, Target> job{};
  job.parameters = focal_parameters<T>(alpha, gamma);
  job.inputs = logits.const_data_ptr<In>();
  Tensor labels = targets;
  int64_t averaged = numel;
  if (classes) {
    job.num_classes = inputs.size(-1);
    const FocalClasses loaded = load_classes("sigmoid_focal_loss", targets, job.num_classes,
                                             "classes up to C (the background), or negative to be ignored");
    labels = loaded.tensor;
    job.classes = loaded.data;
    averaged = loaded.rows * job.num_classes;
  } else {
    labels = as_contiguous(targets, std::is_same_v<T, Target> ? kDtype<T> : targets.scalar_type());
    job.targets = labels.const_data_ptr<Target>();
  }
  const T one = 1;
  job.upstream = {&one, true};
  Tensor upstream = inputs;
  if (grad != nullptr) {
    upstream = as_contiguous(*grad, kDtype<T>);
    job.upstream = {upstream.const_data_ptr<T>(), !each};
  }
  job.scale =
      static_cast<T>(reduction == Reduction::mean ? 1.0 / static_cast<double>(std::max<int64_t>(averaged, 1)) : 1);

  FocalOutputs outputs = new_focal_outputs(wanted, each ? shape_vector(inputs) : std::vector<int64_t>{}, inputs);
  if (wanted != FocalWanted::gradient && each) job.losses = outputs.loss.mutable_data_ptr<T>();
  if (wanted != FocalWanted::loss) job.gradients = outputs.gradient.mutable_data_ptr<In>();
  const double total = numel > 0 ? run_blocks(job, numel) : 0;
  if (wanted != FocalWanted::gradient && !each) {
    const double divisor = reduction == Reduction::mean ? static_cast<double>(std::max<int64_t>(averaged, 1)) : 1;
    outputs.loss.mutable_data_ptr<T>()[0] = static_cast<T>(total / divisor);
  }
  return outputs;
}

FocalOutputs sigmoid_focal(FocalWanted wanted, const Tensor* grad,
                           const Tensor& inputs,   // [...] or [..., C]
                           const Tensor& targets,  // the same, or integers [...]
                           double alpha, double gamma, Text reduction_name) {
  const Reduction reduction = check_sigmoid_focal_loss(grad, inputs, targets, alpha, gamma, reduction_name);
  FocalOutputs outputs;
  PYDET_DISPATCH_FLOATING(inputs.scalar_type(), "sigmoid_focal_loss", [&] {
    using T = Wide<scalar_t>;
    // Labels of the dtype of the logits are read as they lie, others are converted to that of the arithmetic first.
    outputs = targets.scalar_type() == inputs.scalar_type()
                  ? sigmoid_focal_as<T, scalar_t, scalar_t>(wanted, grad, inputs, targets, alpha, gamma, reduction)
                  : sigmoid_focal_as<T, scalar_t, T>(wanted, grad, inputs, targets, alpha, gamma, reduction);
  });
  return outputs;
}

using Operators = FocalOperators<sigmoid_focal>;

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "sigmoid_focal_loss(Tensor inputs, Tensor targets, float alpha=0.25, float gamma=2., str reduction='none') -> "
      "Tensor");
  m.def(
      "_sigmoid_focal_loss_with_gradient(Tensor inputs, Tensor targets, float alpha, float gamma, str reduction) -> "
      "(Tensor, Tensor)");
  m.def(
      "_sigmoid_focal_loss_backward(Tensor grad, Tensor inputs, Tensor targets, float alpha, float gamma, str "
      "reduction) "
      "-> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&Operators::loss));
  m.impl("_sigmoid_focal_loss_with_gradient", TORCH_BOX(&Operators::with_gradient));
  m.impl("_sigmoid_focal_loss_backward", TORCH_BOX(&Operators::backward));
}

}  // namespace pydet
