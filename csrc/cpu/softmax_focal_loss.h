// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// Copies the n logits of a row to x, which has room for whole vectors of kSoftmaxLanes<T>; what is behind them counts
// for nothing. Returns the largest; a NaN is passed over, and makes the sum of exponentials NaN.
template <typename T, typename In>
T copy_row(const In* __restrict__ in, int64_t n, T* __restrict__ x) {
  constexpr int64_t kLanes = kSoftmaxLanes<T>;
  T lanes[kLanes];  // whatever the width of the vectors: the same bits at every level
  for (T& lane : lanes) lane = -std::numeric_limits<T>::max();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(in + i) + 2048));
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const T logit = widen(in[i + lane]);
      x[i + lane] = logit;
      lanes[lane] = maximum(logit, lanes[lane]);
    }
  }
  if (i < n) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      T logit = -std::numeric_limits<T>::max();
      if (i + lane < n) logit = widen(in[i + lane]);
      x[i + lane] = logit;
      lanes[lane] = maximum(logit, lanes[lane]);
    }
  }
  for (int64_t step = kLanes / 2; step > 0; step /= 2) {
    for (int64_t lane = 0; lane < step; ++lane) lanes[lane] = maximum(lanes[lane + step], lanes[lane]);
  }
  const T largest = finite_logit(lanes[0]);
  for (i = 0; lanes[0] < largest && i < n; ++i) x[i] = finite_logit(x[i]);  // all of them are -inf or nearly
  return largest;
}

// x becomes e^(x - largest); returns their sum.
template <typename T>
T exponentials(T* __restrict__ x, int64_t padded, T largest) {
  constexpr int64_t kLanes = kSoftmaxLanes<T>;
  T lanes[kLanes] = {};
  for (int64_t i = 0; i < padded; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const T shifted = x[i + lane] - largest;  // above 0 where the logit is infinite and the largest is not
      const T e = exp_of_negative<PYDET_LEVEL_IS_FUSED>(shifted > T(0) ? T(0) : shifted);
      x[i + lane] = e;
      lanes[lane] += e;
    }
  }
  for (int64_t step = kLanes / 2; step > 0; step /= 2) {
    for (int64_t lane = 0; lane < step; ++lane) lanes[lane] += lanes[lane + step];
  }
  return lanes[0];
}

template <typename T>
struct SoftmaxRows {
  T largest[kSoftmaxRows], shifted[kSoftmaxRows], others[kSoftmaxRows], weight[kSoftmaxRows];
  T loss[kSoftmaxRows], own_factor[kSoftmaxRows], others_factor[kSoftmaxRows];
};

// What comes once a row, for rows together: of a single one it takes longer than the exponentials of 80 classes.
template <typename T>
void finish_rows(T gamma, int64_t count, SoftmaxRows<T>& rows) {
  for (int64_t i = 0; i < count; ++i) {
    const T own = exp_of_negative<PYDET_LEVEL_IS_FUSED>(rows.shifted[i]);
    const FocalOfSoftmax<T> f = focal_of_softmax<PYDET_LEVEL_IS_FUSED>(rows.shifted[i], own, rows.others[i], gamma);
    rows.loss[i] = rows.weight[i] * f.loss;
    rows.own_factor[i] = rows.weight[i] * f.own_slope;
    rows.others_factor[i] = rows.weight[i] * f.others_slope;
  }
}

template <typename T, typename In>
void write_gradient(const T* __restrict__ e, int64_t n, T factor, In* __restrict__ out) {
  for (int64_t c = 0; c < n; ++c) out[c] = static_cast<In>(factor * e[c]);
}

// Rows first .. first + count - 1, count <= kSoftmaxRows; `e` has room for their exponentials, `padded` for each.
template <typename T, typename In>
void softmax_focal_rows(const SoftmaxFocalJob<T, In>& job, int64_t first, int64_t count, T* e) {
  const int64_t n = job.num_classes, padded = padded_row<T>(n);
  SoftmaxRows<T> rows{};  // ignored rows stay at 0
  for (int64_t i = 0; i < count; ++i) {
    const int64_t label = job.classes[first + i];
    if (label < 0) continue;
    T* const x = e + i * padded;
    rows.largest[i] = copy_row(job.inputs + (first + i) * n, n, x);
    rows.shifted[i] = finite_logit(x[label]) - rows.largest[i];
    rows.weight[i] = job.weight != nullptr ? job.alpha * job.weight[label] : job.alpha;
    x[label] = -std::numeric_limits<T>::max();  // so that nothing is subtracted from the sum where p is near 1
  }
  for (int64_t i = 0; i < count; ++i) {
    if (job.classes[first + i] >= 0) rows.others[i] = exponentials(e + i * padded, padded, rows.largest[i]);
  }
  finish_rows(job.gamma, count, rows);
  for (int64_t i = 0; i < count; ++i) job.losses[first + i] = job.classes[first + i] >= 0 ? rows.loss[i] : T(0);
  for (int64_t i = 0; job.gradients != nullptr && i < count; ++i) {
    In* const out = job.gradients + (first + i) * n;
    const int64_t label = job.classes[first + i];
    T factor = job.scale;
    if (job.upstream.data != nullptr) factor *= job.upstream.data[job.upstream.single ? 0 : first + i];
    if (label < 0) {
      for (int64_t c = 0; c < n; ++c) out[c] = static_cast<In>(0.0f);
    } else {
      write_gradient(e + i * padded, n, factor * rows.others_factor[i], out);
      out[label] = static_cast<In>(factor * rows.own_factor[i]);
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
