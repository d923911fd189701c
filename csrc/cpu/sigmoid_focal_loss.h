// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// kFocalChunk values: logits and labels in, losses and gradients out.
template <typename T>
struct FocalChunk {
  const T* x;
  const T* t;
  T* loss;
  T* gradient;
  T scale;  // of the gradients
};

template <typename T>
inline constexpr T kNoLabels[kFocalChunk] = {};

// No label of the chunk is set; returns whether all its logits are ordinary, without which the results are not valid.
template <FocalPower kPower, bool kGradient>
bool focal_background(const FocalParameters<float>& f, const FocalChunk<float>& chunk) {
  const float* __restrict__ x = chunk.x;
  float* __restrict__ loss = chunk.loss;
  float* __restrict__ gradient = chunk.gradient;
  const float weight = f.not_alpha, gamma = f.gamma, scale = chunk.scale;
  int32_t largest = 0;
  for (int64_t i = 0; i < kFocalChunk; ++i) {
    const LossAndGradient<float> one = focal_of_background<kPower, PYDET_LEVEL_IS_FUSED, true>(x[i], weight, gamma);
    loss[i] = one.loss;
    if (kGradient) gradient[i] = scale * one.gradient;
    largest = maximum(largest, magnitude(x[i]));
  }
  return largest <= magnitude(kLargestOrdinary);
}

// The same for labels 0 and 1. Not kOrdinary: for all logits.
template <FocalPower kPower, bool kGradient, bool kOrdinary, typename T>
bool focal_labels(const FocalParameters<T>& f, const FocalChunk<T>& chunk) {
  const T* __restrict__ x = chunk.x;
  const T* __restrict__ t = chunk.t;
  T* __restrict__ loss = chunk.loss;
  T* __restrict__ gradient = chunk.gradient;
  const T alpha = f.alpha, not_alpha = f.not_alpha, gamma = f.gamma, scale = chunk.scale;
  int32_t largest = 0;
  for (int64_t i = 0; i < kFocalChunk; ++i) {
    const LossAndGradient<T> one =
        focal_of_label<kPower, PYDET_LEVEL_IS_FUSED, kOrdinary>(x[i], t[i], alpha, not_alpha, gamma);
    loss[i] = one.loss;
    if (kGradient) gradient[i] = scale * one.gradient;
    if constexpr (kOrdinary) largest = maximum(largest, magnitude(x[i]));
  }
  return largest <= magnitude(kLargestOrdinary);
}

// Overwrites the results where labels are soft.
template <FocalPower kPower, bool kGradient, typename T>
void focal_soft_labels(const FocalParameters<T>& f, const FocalChunk<T>& chunk) {
  const T* __restrict__ x = chunk.x;
  const T* __restrict__ t = chunk.t;
  T* __restrict__ loss = chunk.loss;
  T* __restrict__ gradient = chunk.gradient;
  const T alpha = f.alpha, not_alpha = f.not_alpha, gamma = f.gamma, scale = chunk.scale;
  for (int64_t i = 0; i < kFocalChunk; ++i) {
    const LossAndGradient<T> one =
        focal_of_soft_label<kPower, PYDET_LEVEL_IS_FUSED>(x[i], t[i], alpha, not_alpha, gamma);
    const bool soft = is_soft(t[i]);
    loss[i] = soft ? one.loss : loss[i];
    if (kGradient) gradient[i] = soft ? scale * one.gradient : gradient[i];
  }
}

// `chunk.t` is null where there are no labels. Each value depends on its own logit and label only, whatever the path.
template <FocalPower kPower, bool kGradient, typename T>
void focal_chunk(const FocalParameters<T>& f, FocalChunk<T> chunk) {
  decltype(bits_of(T())) any = 0, soft = 0;  // integers, whose reductions vectorise
  if (chunk.t == nullptr) chunk.t = kNoLabels<T>;
  const T* __restrict__ t = chunk.t;
  for (int64_t i = 0; i < kFocalChunk; ++i) any |= bits_of(t[i]);
  for (int64_t i = 0; any != 0 && i < kFocalChunk; ++i) soft |= bits_of(t[i] * t[i] - t[i]);
  bool ordinary = false;
  if constexpr (std::is_same_v<T, float>) {
    ordinary = any == 0 ? focal_background<kPower, kGradient>(f, chunk)
                        : focal_labels<kPower, kGradient, true>(f, chunk);
  }
  if (!ordinary) focal_labels<kPower, kGradient, false>(f, chunk);
  if (soft != 0) focal_soft_labels<kPower, kGradient>(f, chunk);
}

// The rows of a chunk that starts at value `begin`, of which the first is `row`.
struct FocalRows {
  const int64_t* classes;
  int64_t num_classes, begin, row, end;  // end: behind the last row of the chunk
  bool labels, ignored;  // of the rows of this chunk
};

FocalRows rows_of_chunk(const int64_t* classes, int64_t num_classes, int64_t begin, int64_t n, int64_t row) {
  FocalRows rows{classes, num_classes, begin, row, row, false, false};
  for (int64_t first = row * num_classes; first < begin + n; first += num_classes) ++rows.end;
  int64_t labels = 0, ignored = 0;
  for (int64_t i = row; i < rows.end; ++i) {
    ignored |= classes[i];  // negative where one of them is
    labels += classes[i] < num_classes;
  }
  rows.ignored = ignored < 0;
  rows.labels = labels > 0;
  return rows;
}

// 1 for the class of each row; null where there is none, as in most chunks.
template <typename T>
const T* labels_of(const FocalRows& rows, T* labels) {
  if (!rows.labels) return nullptr;
  for (int64_t i = 0; i < kFocalChunk; ++i) labels[i] = T(0);
  for (int64_t row = rows.row; row < rows.end; ++row) {
    const int64_t label = rows.classes[row], at = row * rows.num_classes + label - rows.begin;
    if (label >= 0 && label < rows.num_classes && at >= 0 && at < kFocalChunk) labels[at] = T(1);
  }
  return labels;
}

template <typename T>
void clear_ignored(const FocalRows& rows, T* values) {
  for (int64_t row = rows.row; row < rows.end; ++row) {
    const int64_t first = row * rows.num_classes - rows.begin;
    const int64_t end = std::min(first + rows.num_classes, kFocalChunk);
    for (int64_t i = std::max<int64_t>(first, 0); rows.classes[row] < 0 && i < end; ++i) values[i] = T(0);
  }
}

// n values of any type: where they lie if they fill a chunk of T, else in `buffer`, zeros behind them.
template <typename T, typename In>
const T* load_chunk(const In* __restrict__ values, int64_t n, T* __restrict__ buffer) {
  // A page ahead: the hardware's own prefetching ends with the page, and the arithmetic hides the rest.
  for (int64_t at = 0; at < kFocalChunk * static_cast<int64_t>(sizeof(In)); at += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(values) + 4096 + at));
  }
  if constexpr (std::is_same_v<T, In>) {
    if (n == kFocalChunk) return values;
  }
  for (int64_t i = 0; i < n; ++i) buffer[i] = widen(values[i]);
  for (int64_t i = n; i < kFocalChunk; ++i) buffer[i] = T(0);
  return buffer;
}

// Running sums, whatever the width of the vectors: the same bits at every level.
template <typename T>
void add_chunk(const T* __restrict__ losses, double* __restrict__ lanes) {
  T sums[kFocalLanes] = {};
  for (int64_t i = 0; i < kFocalChunk; i += kFocalLanes) {
    for (int64_t lane = 0; lane < kFocalLanes; ++lane) sums[lane] += losses[i + lane];
  }
  for (int64_t lane = 0; lane < kFocalLanes; ++lane) lanes[lane] += static_cast<double>(sums[lane]);
}

template <FocalPower kPower, bool kGradient, typename T, typename In, typename Target>
double focal_block(const SigmoidFocalJob<T, In, Target>& job, int64_t begin, int64_t size) {
  T x[kFocalChunk], t[kFocalChunk], losses[kFocalChunk], gradients[kFocalChunk];
  const T scale = job.upstream.single ? job.scale * job.upstream.data[0] : job.scale;
  double lanes[kFocalLanes] = {};
  FocalRows rows{};
  rows.end = job.classes != nullptr ? begin / job.num_classes : 0;
  for (int64_t i = begin; i < begin + size; i += kFocalChunk) {
    const int64_t n = std::min(kFocalChunk, begin + size - i);
    FocalChunk<T> chunk{load_chunk(job.inputs + i, n, x), nullptr, losses, gradients, scale};
    if (job.classes != nullptr) {
      const int64_t row = rows.end * job.num_classes > i ? rows.end - 1 : rows.end;
      rows = rows_of_chunk(job.classes, job.num_classes, i, n, row);
      chunk.t = labels_of(rows, t);
    } else {
      chunk.t = load_chunk(job.targets + i, n, t);
    }
    const bool whole = n == kFocalChunk;
    if (whole && job.losses != nullptr) chunk.loss = job.losses + i;
    if constexpr (std::is_same_v<T, In>) {
      if (whole && kGradient) chunk.gradient = job.gradients + i;
    }
    focal_chunk<kPower, kGradient>(job.parameters, chunk);
    if (rows.ignored) {
      clear_ignored(rows, chunk.loss);
      if (kGradient) clear_ignored(rows, chunk.gradient);
    }
    if (kGradient) {
      for (int64_t k = 0; !job.upstream.single && k < n; ++k) chunk.gradient[k] *= job.upstream.data[i + k];
      for (int64_t k = 0; chunk.gradient == gradients && k < n; ++k) job.gradients[i + k] = static_cast<In>(gradients[k]);
    }
    if (job.losses == nullptr) {
      for (int64_t k = n; k < kFocalChunk; ++k) losses[k] = T(0);
      add_chunk(losses, lanes);
    } else {
      for (int64_t k = 0; !whole && k < n; ++k) job.losses[i + k] = losses[k];
    }
  }
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

template <bool kGradient, typename Job>
double focal_block_of_power(const Job& job, int64_t begin, int64_t size) {
  switch (job.parameters.power) {
    case FocalPower::zero:
      return focal_block<FocalPower::zero, kGradient>(job, begin, size);
    case FocalPower::one:
      return focal_block<FocalPower::one, kGradient>(job, begin, size);
    case FocalPower::two:
      return focal_block<FocalPower::two, kGradient>(job, begin, size);
    default:
      return focal_block<FocalPower::any, kGradient>(job, begin, size);
  }
}

// Values begin .. begin + size - 1; returns the sum of their losses where no single ones are wanted.
template <typename T, typename In, typename Target>
double sigmoid_focal_block(const SigmoidFocalJob<T, In, Target>& job, int64_t begin, int64_t size) {
  return job.gradients != nullptr ? focal_block_of_power<true>(job, begin, size)
                                  : focal_block_of_power<false>(job, begin, size);
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
