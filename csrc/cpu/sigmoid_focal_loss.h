// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// `n` values, a multiple of kFocalStep, up to kFocalBlock: logits and labels in, losses and gradients out.
template <typename T>
struct FocalBlock {
  int64_t n;
  const T* x;
  const T* t;
  T* loss;
  T* gradient;
  T scale;  // of the gradients
  bool labels_in_memory, loss_in_memory, gradient_in_memory;  // rather than in a buffer that the cache holds
};

// The 64 values of a step that lie `bytes` ahead, for reading or writing: the hardware's own prefetching ends with the
// page. Nothing happens where there is no memory. Inlined by force: GCC drops calls of functions that only prefetch.
template <typename T>
PYDET_HD void prefetch_step(const T* values, uintptr_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(values) + bytes;
  for (uintptr_t line = 0; line < kFocalStep * sizeof(T); line += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(at + line));
  }
}

// Labels a block ahead, because all of a block are looked at first. Buffers are left out: what lies behind them is
// nothing but other lines for the cache to lose.
template <bool kGradient, typename T>
PYDET_HD void prefetch_step(const FocalBlock<T>& block, int64_t step) {
  prefetch_step(block.x + step, 2048);
  if (block.labels_in_memory) prefetch_step(block.t + step, kFocalBlock * sizeof(T));
  if (block.loss_in_memory) prefetch_step(block.loss + step, 2048);
  if (kGradient && block.gradient_in_memory) prefetch_step(block.gradient + step, 2048);
}

// No label is set; returns whether all logits are ordinary, without which the results are not valid.
template <FocalPower kPower, bool kGradient>
bool focal_background(const FocalParameters<float>& f, const FocalBlock<float>& block) {
  const float* __restrict__ x = block.x;
  float* __restrict__ loss = block.loss;
  float* __restrict__ gradient = block.gradient;
  const float weight = f.not_alpha, gamma = f.gamma, scale = block.scale;
  int32_t largest = 0;
  for (int64_t step = 0; step < block.n; step += kFocalStep) {
    prefetch_step<kGradient>(block, step);
    for (int64_t i = step; i < step + kFocalStep; ++i) {
      const LossAndGradient<float> one = focal_of_background<kPower, PYDET_LEVEL_IS_FUSED, true>(x[i], weight, gamma);
      loss[i] = one.loss;
      if (kGradient) gradient[i] = scale * one.gradient;
      largest = maximum(largest, magnitude(x[i]));
    }
  }
  return largest <= magnitude(kLargestOrdinary);
}

// The same for labels 0 and 1. Not kOrdinary: for all logits.
template <FocalPower kPower, bool kGradient, bool kOrdinary, typename T>
bool focal_labels(const FocalParameters<T>& f, const FocalBlock<T>& block) {
  const T* __restrict__ x = block.x;
  const T* __restrict__ t = block.t;
  T* __restrict__ loss = block.loss;
  T* __restrict__ gradient = block.gradient;
  const T alpha = f.alpha, not_alpha = f.not_alpha, gamma = f.gamma, scale = block.scale;
  int32_t largest = 0;
  for (int64_t step = 0; step < block.n; step += kFocalStep) {
    prefetch_step<kGradient>(block, step);
    for (int64_t i = step; i < step + kFocalStep; ++i) {
      const LossAndGradient<T> one =
          focal_of_label<kPower, PYDET_LEVEL_IS_FUSED, kOrdinary>(x[i], t[i], alpha, not_alpha, gamma);
      loss[i] = one.loss;
      if (kGradient) gradient[i] = scale * one.gradient;
      if constexpr (kOrdinary) largest = maximum(largest, magnitude(x[i]));
    }
  }
  return largest <= magnitude(kLargestOrdinary);
}

// Overwrites the results where labels are soft.
template <FocalPower kPower, bool kGradient, typename T>
void focal_soft_labels(const FocalParameters<T>& f, const FocalBlock<T>& block) {
  const T* __restrict__ x = block.x;
  const T* __restrict__ t = block.t;
  T* __restrict__ loss = block.loss;
  T* __restrict__ gradient = block.gradient;
  const T alpha = f.alpha, not_alpha = f.not_alpha, gamma = f.gamma, scale = block.scale;
  for (int64_t i = 0; i < block.n; ++i) {
    const LossAndGradient<T> one =
        focal_of_soft_label<kPower, PYDET_LEVEL_IS_FUSED>(x[i], t[i], alpha, not_alpha, gamma);
    const bool soft = is_soft(t[i]);
    loss[i] = soft ? one.loss : loss[i];
    if (kGradient) gradient[i] = soft ? scale * one.gradient : gradient[i];
  }
}

// Each value depends on its own logit and label only, whatever the path.
template <FocalPower kPower, bool kGradient, typename T>
void focal_values(const FocalParameters<T>& f, const FocalBlock<T>& block, bool labels) {
  decltype(bits_of(T())) any = 0, soft = 0;  // integers, whose reductions vectorise
  const T* __restrict__ t = block.t;
  for (int64_t i = 0; labels && i < block.n; ++i) any |= bits_of(t[i]);
  for (int64_t i = 0; any != 0 && i < block.n; ++i) soft |= bits_of(t[i] * t[i] - t[i]);
  bool ordinary = false;
  if constexpr (std::is_same_v<T, float>) {
    ordinary =
        any == 0 ? focal_background<kPower, kGradient>(f, block) : focal_labels<kPower, kGradient, true>(f, block);
  }
  if (!ordinary) focal_labels<kPower, kGradient, false>(f, block);
  if (soft != 0) focal_soft_labels<kPower, kGradient>(f, block);
}

// The rows of values begin .. begin + n - 1.
struct FocalRows {
  const int64_t* classes;
  int64_t num_classes, begin, first, end;
  bool labels, ignored;  // whether one of them has a class, is ignored
};

inline FocalRows rows_of_block(const int64_t* classes, int64_t num_classes, int64_t begin, int64_t n) {
  FocalRows rows{classes, num_classes, begin, begin / num_classes, (begin + n - 1) / num_classes + 1, false, false};
  int64_t ignored = 0, labels = 0;
  for (int64_t row = rows.first; row < rows.end; ++row) {
    ignored |= classes[row];  // negative where one of them is
    labels |= classes[row] - num_classes;
  }
  rows.ignored = ignored < 0;
  rows.labels = labels < 0;
  return rows;
}

// 1 for the class of each row, into labels[kFocalBlock].
template <typename T>
void one_hot(const FocalRows& rows, T* labels) {
  for (int64_t i = 0; i < kFocalBlock; ++i) labels[i] = T(0);
  for (int64_t row = rows.first; row < rows.end; ++row) {
    const int64_t label = rows.classes[row], at = row * rows.num_classes + label - rows.begin;
    if (label >= 0 && label < rows.num_classes && at >= 0 && at < kFocalBlock) labels[at] = T(1);
  }
}

template <typename T>
void clear_ignored(const FocalRows& rows, int64_t n, T* values) {
  for (int64_t row = rows.first; row < rows.end; ++row) {
    const int64_t first = row * rows.num_classes - rows.begin, end = std::min(first + rows.num_classes, n);
    for (int64_t i = std::max<int64_t>(first, 0); rows.classes[row] < 0 && i < end; ++i) values[i] = T(0);
  }
}

// n values of any type: where they lie if they are whole steps of T, else in `buffer`, zeros behind them.
template <typename T, typename In>
const T* load_values(const In* __restrict__ values, int64_t n, T* __restrict__ buffer) {
  if constexpr (std::is_same_v<T, In>) {
    if (n % kFocalStep == 0) return values;
  }
  for (int64_t i = 0; i < n; ++i) buffer[i] = widen(values[i]);
  for (int64_t i = n; i % kFocalStep != 0; ++i) buffer[i] = T(0);
  return buffer;
}

// In 16 lanes, whatever the width of the vectors: the same bits at every level.
template <typename T>
double sum_of(T* losses, int64_t n) {
  for (int64_t i = n; i % kFocalStep != 0; ++i) losses[i] = T(0);
  double lanes[kFocalLanes] = {};
  for (int64_t step = 0; step < n; step += kFocalStep) {
    T sums[kFocalLanes] = {};
    for (int64_t i = step; i < step + kFocalStep; i += kFocalLanes) {
      for (int64_t lane = 0; lane < kFocalLanes; ++lane) sums[lane] += losses[i + lane];
    }
    for (int64_t lane = 0; lane < kFocalLanes; ++lane) lanes[lane] += static_cast<double>(sums[lane]);
  }
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

template <FocalPower kPower, bool kGradient, typename T, typename In, typename Target>
double focal_block(const SigmoidFocalJob<T, In, Target>& job, int64_t begin, int64_t n) {
  T x[kFocalBlock], t[kFocalBlock], losses[kFocalBlock], gradients[kFocalBlock];
  const bool whole = n % kFocalStep == 0, single = job.upstream.single;
  FocalBlock<T> block{(n + kFocalStep - 1) / kFocalStep * kFocalStep,
                      load_values(job.inputs + begin, n, x),
                      kNoLabels<T>,
                      whole && job.losses != nullptr ? job.losses + begin : losses,
                      gradients,
                      single ? job.scale * job.upstream.data[0] : job.scale,
                      false,
                      whole && job.losses != nullptr,
                      false};
  if constexpr (std::is_same_v<T, In>) {
    block.gradient_in_memory = kGradient && whole;
    if (block.gradient_in_memory) block.gradient = job.gradients + begin;
  }
  FocalRows rows{};
  if (job.classes != nullptr) {
    rows = rows_of_block(job.classes, job.num_classes, begin, n);
    if (rows.labels) one_hot(rows, t);
    if (rows.labels) block.t = t;
  } else {
    block.t = load_values(job.targets + begin, n, t);
    block.labels_in_memory = block.t != t;
  }
  focal_values<kPower, kGradient>(job.parameters, block, block.t != kNoLabels<T>);
  if (rows.ignored) {
    clear_ignored(rows, n, block.loss);
    if (kGradient) clear_ignored(rows, n, block.gradient);
  }
  if (kGradient) {
    for (int64_t i = 0; !single && i < n; ++i) block.gradient[i] *= job.upstream.data[begin + i];
    if (block.gradient == gradients) {
      for (int64_t i = 0; i < n; ++i) job.gradients[begin + i] = static_cast<In>(gradients[i]);
    }
  }
  if (job.losses == nullptr) return sum_of(losses, n);
  for (int64_t i = 0; !whole && i < n; ++i) job.losses[begin + i] = losses[i];
  return 0;
}

template <bool kGradient, typename Job>
double focal_block_of_power(const Job& job, int64_t begin, int64_t n) {
  switch (job.parameters.power) {
    case FocalPower::zero:
      return focal_block<FocalPower::zero, kGradient>(job, begin, n);
    case FocalPower::one:
      return focal_block<FocalPower::one, kGradient>(job, begin, n);
    case FocalPower::two:
      return focal_block<FocalPower::two, kGradient>(job, begin, n);
    default:
      return focal_block<FocalPower::any, kGradient>(job, begin, n);
  }
}

// Values begin .. begin + n - 1, n <= kFocalBlock; returns the sum of their losses where no single ones are wanted.
template <typename T, typename In, typename Target>
double sigmoid_focal_block(const SigmoidFocalJob<T, In, Target>& job, int64_t begin, int64_t n) {
  return job.gradients != nullptr ? focal_block_of_power<true>(job, begin, n)
                                  : focal_block_of_power<false>(job, begin, n);
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
