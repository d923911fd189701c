#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "focal_loss.h"

namespace pydet {
namespace {

constexpr int64_t kLogitsPerTask = 1 << 14;  // about 10 us of work
// Running maxima and sums; a row is padded to whole ones. Two of float64, whose exponentials are not vectors.
template <typename T>
constexpr int64_t kSoftmaxLanes = sizeof(T) == sizeof(float) ? 16 : 2;
constexpr int64_t kSoftmaxRows = 32;         // rows at a time, fewer where their exponentials leave the L1 cache
constexpr int64_t kSoftmaxValues = 4096;     // of those

template <typename T>
int64_t padded_row(int64_t num_classes) {
  return (num_classes + kSoftmaxLanes<T> - 1) / kSoftmaxLanes<T> * kSoftmaxLanes<T>;
}

template <typename T, typename In>
struct SoftmaxFocalJob {
  const In* inputs;
  const int64_t* classes;
  int64_t num_classes;
  const T* weight;  // one for each class, or null
  T alpha, gamma;
  T* losses;      // one for each row
  In* gradients;  // one for each logit, or null
  Upstream<T> upstream;
  T scale;
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/softmax_focal_loss.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

template <typename T, typename In>
void run_rows(const SoftmaxFocalJob<T, In>& job, int64_t rows) {
  const int64_t padded = padded_row<T>(job.num_classes);
  const int64_t together = std::clamp<int64_t>(kSoftmaxValues / padded, 1, kSoftmaxRows);
  const int64_t groups = (rows + together - 1) / together, grain = kLogitsPerTask / (together * padded) + 1;
  torch::stable::parallel_for(0, groups, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> exponentials(together * padded);
    for (int64_t first = begin * together; first < std::min(end * together, rows); first += together) {
      PYDET_CPU_CALL(softmax_focal_rows, job, first, std::min(together, rows - first), exponentials.data());
    }
  });
}

template <typename T, typename In>
FocalOutputs softmax_focal_as(FocalWanted wanted, const Tensor* grad, const Tensor& inputs, const Tensor& targets,
                              double gamma, double alpha, const std::optional<Tensor>& weight, Reduction reduction) {
  const int64_t rows = inputs.size(0);
  const FocalClasses classes =
      load_classes("softmax_focal_loss", targets, inputs.size(1) - 1, "classes below C, or negative to be ignored");
  const Tensor logits = as_contiguous(inputs, inputs.scalar_type());
  const Tensor weights = weight ? as_contiguous(*weight, kDtype<T>) : inputs;
  const Tensor upstream = grad != nullptr ? as_contiguous(*grad, kDtype<T>) : inputs;
  const bool each = reduction == Reduction::none;
  const double averaged = reduction == Reduction::mean ? static_cast<double>(std::max<int64_t>(rows, 1)) : 1;
  FocalOutputs outputs = new_focal_outputs(wanted, each ? std::vector<int64_t>{rows} : std::vector<int64_t>{}, inputs);
  std::vector<T> row_losses;
  SoftmaxFocalJob<T, In> job{};
  job.inputs = logits.const_data_ptr<In>();
  job.classes = classes.data;
  job.num_classes = inputs.size(1);
  job.weight = weight ? weights.const_data_ptr<T>() : nullptr;
  job.alpha = static_cast<T>(alpha < 0 ? 1 : alpha);
  job.gamma = static_cast<T>(gamma);
  job.scale = static_cast<T>(1 / averaged);
  if (grad != nullptr) job.upstream = {upstream.const_data_ptr<T>(), !each};
  if (wanted != FocalWanted::loss) job.gradients = outputs.gradient.mutable_data_ptr<In>();
  if (wanted != FocalWanted::gradient && each) {
    job.losses = outputs.loss.mutable_data_ptr<T>();
  } else {
    row_losses.resize(rows);
    job.losses = row_losses.data();
  }
  if (rows > 0) run_rows(job, rows);
  if (wanted != FocalWanted::gradient && !each) {
    double total = 0;  // in the order of the rows: the number of threads makes no difference
    for (const T loss : row_losses) total += static_cast<double>(loss);
    outputs.loss.mutable_data_ptr<T>()[0] = static_cast<T>(total / averaged);
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
  FocalOutputs outputs;
  PYDET_DISPATCH_FLOATING(inputs.scalar_type(), "softmax_focal_loss", [&] {
    outputs =
        softmax_focal_as<Wide<scalar_t>, scalar_t>(wanted, grad, inputs, targets, gamma, alpha, weight, reduction);
  });
  return outputs;
}

using Operators = FocalOperators<softmax_focal>;

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "softmax_focal_loss(Tensor inputs, Tensor targets, float gamma=2., float alpha=0.25, Tensor? weight=None, "
      "str reduction='mean') -> Tensor");
  m.def(
      "_softmax_focal_loss_with_gradient(Tensor inputs, Tensor targets, float gamma, float alpha, Tensor? weight, "
      "str reduction) -> (Tensor, Tensor)");
  m.def(
      "_softmax_focal_loss_backward(Tensor grad, Tensor inputs, Tensor targets, float gamma, float alpha, "
      "Tensor? weight, str reduction) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("softmax_focal_loss", TORCH_BOX(&Operators::loss));
  m.impl("_softmax_focal_loss_with_gradient", TORCH_BOX(&Operators::with_gradient));
  m.impl("_softmax_focal_loss_backward", TORCH_BOX(&Operators::backward));
}

}  // namespace pydet
