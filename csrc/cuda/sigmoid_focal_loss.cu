#include "sigmoid_focal_loss.cuh"

#include <algorithm>
#include <vector>

namespace pydet {
namespace {

// Rows that are not ignored.
__global__ void __launch_bounds__(kFocalThreads)
    counted_rows_kernel(const int64_t* classes, int64_t rows, double* counts) {  // [blocks]
  __shared__ double of_warps[kFocalThreads / 32];
  const int64_t stride = int64_t{kFocalThreads} * gridDim.x;
  int64_t count = 0;
  for (int64_t row = int64_t{kFocalThreads} * blockIdx.x + threadIdx.x; row < rows; row += stride) {
    count += classes[row] >= 0;
  }
  const double sum = block_sum<kFocalThreads>(static_cast<double>(count), of_warps);
  if (threadIdx.x == 0) counts[blockIdx.x] = sum;
}

// One block: 1 / the number of rows, 1 where there is none.
__global__ void __launch_bounds__(kTotalThreads) row_share_kernel(const double* counts, int64_t blocks, double* share) {
  const double sum = total_of<kTotalThreads>(counts, blocks);
  if (threadIdx.x == 0) *share = 1 / (sum > 1 ? sum : 1);
}

Tensor share_of_row(const Tensor& classes, cudaStream_t stream) {
  const int64_t rows = classes.numel(), wanted = (rows + kFocalThreads - 1) / kFocalThreads;
  const int64_t blocks = std::min<int64_t>(wanted, 8 * multiprocessors());
  Tensor counts = new_dense(classes, {blocks}, ScalarType::Double), share = new_dense(classes, {}, ScalarType::Double);
  launch(counted_rows_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kFocalThreads), 0, stream,
         classes.const_data_ptr<int64_t>(), rows, counts.mutable_data_ptr<double>());
  launch(row_share_kernel, dim3(1), dim3(kTotalThreads), 0, stream, counts.const_data_ptr<double>(), blocks,
         share.mutable_data_ptr<double>());
  return share;
}

template <FocalPower kPower, typename T, typename In>
void launch_power(const SigmoidFocalJob<T, In>& job, bool reduced, int64_t blocks, cudaStream_t stream) {
  const auto start = [&](auto kernel) {
    launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kFocalThreads), 0, stream, job);
  };
  if (job.classes != nullptr) {
    reduced ? start(sigmoid_focal_kernel<kPower, true, true, T, In>)
            : start(sigmoid_focal_kernel<kPower, false, true, T, In>);
  } else {
    reduced ? start(sigmoid_focal_kernel<kPower, true, false, T, In>)
            : start(sigmoid_focal_kernel<kPower, false, false, T, In>);
  }
}

template <typename T, typename In>
FocalOutputs sigmoid_focal_as(FocalWanted wanted, const Tensor* grad, const Tensor& inputs, const Tensor& targets,
                              double alpha, double gamma, Reduction reduction) {
  const ScalarType type = inputs.scalar_type();
  const int64_t numel = inputs.numel();
  const bool classes = is_integral(targets.scalar_type()), reduced = reduction != Reduction::none;
  const bool mean = reduction == Reduction::mean;
  const bool narrow = std::is_same_v<T, In> || targets.scalar_type() == type;  // of labels: in the type of logits
  FocalOutputs outputs = new_focal_outputs(wanted, reduced ? std::vector<int64_t>{} : shape_vector(inputs), inputs);
  if (numel == 0 && (!reduced || wanted == FocalWanted::gradient)) return outputs;
  const cudaStream_t stream = current_stream(inputs);
  const Tensor logits = as_contiguous(inputs, type);
  const Tensor labels = as_contiguous(targets, classes ? ScalarType::Long : narrow ? type : kDtype<T>);
  const Tensor upstream = grad != nullptr ? as_contiguous(*grad, kDtype<T>) : inputs;
  constexpr int64_t kValues = kFocalThreads * kSteps * (16 / sizeof(In));
  const int64_t blocks = (numel + kValues - 1) / kValues;
  Tensor sums, share;

  SigmoidFocalJob<T, In> job{};
  job.parameters = focal_parameters<T>(alpha, gamma);
  job.numel = numel;
  job.scale = mean ? 1.0 / static_cast<double>(std::max<int64_t>(numel, 1)) : 1.0;
  job.inputs = logits.const_data_ptr<In>();
  if (classes) {
    job.classes = labels.const_data_ptr<int64_t>();
    job.num_classes = static_cast<int>(inputs.size(-1));
    job.rows_of_value = 1.0 / static_cast<double>(job.num_classes);
    if (mean && numel > 0) {
      share = share_of_row(labels, stream);
      job.factor = share.const_data_ptr<double>();
      job.scale = job.rows_of_value;
    }
  } else if (narrow) {
    job.labels = labels.const_data_ptr<In>();
  } else {
    job.wide_labels = labels.const_data_ptr<T>();
  }
  if (grad != nullptr) job.upstream = {upstream.const_data_ptr<T>(), reduced};
  if (wanted != FocalWanted::loss) job.gradients = outputs.gradient.mutable_data_ptr<In>();
  if (wanted != FocalWanted::gradient && !reduced) job.losses = outputs.loss.mutable_data_ptr<T>();
  if (wanted != FocalWanted::gradient && reduced) {
    sums = new_dense(inputs, {blocks}, ScalarType::Double);
    job.sums = sums.mutable_data_ptr<double>();
  }
  job.aligned = is_aligned(job.inputs) && is_aligned(job.labels) && is_aligned(job.wide_labels) &&
                is_aligned(job.losses) && is_aligned(job.gradients) && (reduced || is_aligned(job.upstream.data));
  if (blocks > 0) {
    job.parameters.power == FocalPower::two ? launch_power<FocalPower::two>(job, reduced, blocks, stream)
                                            : launch_power<FocalPower::any>(job, reduced, blocks, stream);
  }
  if (wanted != FocalWanted::gradient && reduced) {
    launch_focal_total(sums, job.scale, job.factor, outputs.loss.mutable_data_ptr<T>(), stream);
  }
  return outputs;
}

FocalOutputs sigmoid_focal(FocalWanted wanted, const Tensor* grad,
                           const Tensor& inputs,   // [...] or [..., C]
                           const Tensor& targets,  // the same, or integers [...]
                           double alpha, double gamma, Text reduction_name) {
  const Reduction reduction = check_sigmoid_focal_loss(grad, inputs, targets, alpha, gamma, reduction_name);
  PYDET_CHECK(inputs.dim() == 0 || inputs.size(-1) < int64_t{1} << 31 || is_floating(targets.scalar_type()),
              "sigmoid_focal_loss: inputs must have fewer than 2^31 classes, got ", shape_of(inputs));
  const DeviceGuard guard(inputs.get_device_index());
  FocalOutputs outputs;
  PYDET_DISPATCH_FLOATING(inputs.scalar_type(), "sigmoid_focal_loss", [&] {
    outputs = sigmoid_focal_as<Wide<scalar_t>, scalar_t>(wanted, grad, inputs, targets, alpha, gamma, reduction);
  });
  return outputs;
}

using Operators = FocalOperators<sigmoid_focal>;

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&Operators::loss));
  m.impl("_sigmoid_focal_loss_with_gradient", TORCH_BOX(&Operators::with_gradient));
  m.impl("_sigmoid_focal_loss_backward", TORCH_BOX(&Operators::backward));
}

}  // namespace pydet
