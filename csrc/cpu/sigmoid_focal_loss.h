// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

template <FocalPower kPower, bool kGradient, typename T>
void focal_dense(const FocalParameters<T>& f, const T* __restrict__ x, const T* __restrict__ t, int64_t n,
                 T* __restrict__ loss, T* __restrict__ gradient) {
  const T alpha = f.alpha, not_alpha = f.not_alpha, gamma = f.gamma;
  for (int64_t i = 0; i < n; ++i) {
    const LossAndGradient<T> one = focal<kPower>(x[i], t[i], alpha, not_alpha, gamma);
    loss[i] = one.loss;
    if (kGradient) gradient[i] = one.gradient;
  }
}

template <FocalPower kPower, bool kGradient, typename T>
void focal_background(const T* __restrict__ x, int64_t n, T weight, T gamma, T* __restrict__ loss,
                      T* __restrict__ gradient) {
  for (int64_t i = 0; i < n; ++i) {
    const LossAndGradient<T> one = focal_of_background<kPower>(x[i], weight, gamma);
    loss[i] = one.loss;
    if (kGradient) gradient[i] = one.gradient;
  }
}

// Row by row of a block that starts at value `begin`: ignored rows become 0, the class of a row gets the loss of
// label 1.
template <FocalPower kPower, bool kGradient, typename T>
void focal_foreground(const FocalParameters<T>& f, const int64_t* classes, int64_t num_classes, int64_t begin,
                      const T* x, int64_t n, T* loss, T* gradient) {
  int32_t where[kFocalBlock];
  T logits[kFocalBlock], losses[kFocalBlock], gradients[kFocalBlock];
  int64_t count = 0;
  for (int64_t row = begin / num_classes; row * num_classes < begin + n; ++row) {
    const int64_t label = classes[row], first = row * num_classes - begin;
    if (label < 0) {
      const int64_t from = std::max<int64_t>(first, 0), to = std::min(first + num_classes, n);
      for (int64_t i = from; i < to; ++i) loss[i] = T(0);
      for (int64_t i = from; kGradient && i < to; ++i) gradient[i] = T(0);
    } else if (label < num_classes && first + label >= 0 && first + label < n) {
      logits[count] = -x[first + label];
      where[count++] = static_cast<int32_t>(first + label);
    }
  }
  focal_background<kPower, kGradient>(logits, count, f.alpha, f.gamma, losses, gradients);
  for (int64_t i = 0; i < count; ++i) {
    loss[where[i]] = losses[i];
    if (kGradient) gradient[where[i]] = -gradients[i];
  }
}

template <FocalPower kPower, bool kGradient, typename T, typename In, typename Target>
void focal_values(const SigmoidFocalJob<T, In, Target>& job, int64_t begin, int64_t n, T* loss, T* gradient) {
  T x_buffer[kFocalBlock], t_buffer[kFocalBlock];
  const T* x = x_buffer;
  if constexpr (std::is_same_v<T, In>) {
    x = job.inputs + begin;
  } else {
    for (int64_t i = 0; i < n; ++i) x_buffer[i] = widen(job.inputs[begin + i]);
  }
  if (job.classes != nullptr) {
    focal_background<kPower, kGradient>(x, n, job.parameters.not_alpha, job.parameters.gamma, loss, gradient);
    focal_foreground<kPower, kGradient>(job.parameters, job.classes, job.num_classes, begin, x, n, loss, gradient);
    return;
  }
  const T* t = t_buffer;
  if constexpr (std::is_same_v<T, Target>) {
    t = job.targets + begin;
  } else {
    for (int64_t i = 0; i < n; ++i) t_buffer[i] = widen(job.targets[begin + i]);
  }
  focal_dense<kPower, kGradient>(job.parameters, x, t, n, loss, gradient);
}

template <bool kGradient, typename... Arguments>
void focal_with_power(FocalPower power, const Arguments&... arguments) {
  if (power == FocalPower::two) return focal_values<FocalPower::two, kGradient>(arguments...);
  if (power == FocalPower::one) return focal_values<FocalPower::one, kGradient>(arguments...);
  if (power == FocalPower::zero) return focal_values<FocalPower::zero, kGradient>(arguments...);
  return focal_values<FocalPower::any, kGradient>(arguments...);
}

// Eight running sums, whatever the width of the vectors: the same bits at every level.
template <typename T>
double sum_of_block(const T* values, int64_t n) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t lane = 0; lane < 8; ++lane) lanes[lane] += static_cast<double>(values[i + lane]);
  }
  for (int64_t lane = 0; i < n; ++i, ++lane) lanes[lane] += static_cast<double>(values[i]);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// Values begin .. begin + n - 1, n <= kFocalBlock; returns the sum of their losses where no single ones are wanted.
template <typename T, typename In, typename Target>
double sigmoid_focal_block(const SigmoidFocalJob<T, In, Target>& job, int64_t begin, int64_t n) {
  T loss_buffer[kFocalBlock], gradient[kFocalBlock];
  T* loss = job.losses != nullptr ? job.losses + begin : loss_buffer;
  if (job.gradients == nullptr) {
    focal_with_power<false>(job.parameters.power, job, begin, n, loss, static_cast<T*>(nullptr));
  } else {
    T* values = gradient;
    focal_with_power<true>(job.parameters.power, job, begin, n, loss, values);
    In* __restrict__ out = job.gradients + begin;
    const T scale = job.upstream.single ? job.scale * job.upstream.data[0] : job.scale;
    if (job.upstream.single) {
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<In>(scale * gradient[i]);
    } else {
      const T* __restrict__ upstream = job.upstream.data + begin;
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<In>(upstream[i] * gradient[i]);
    }
  }
  return job.losses != nullptr ? 0.0 : sum_of_block(loss, n);
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
