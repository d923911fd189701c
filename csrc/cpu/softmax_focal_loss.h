// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

constexpr int64_t kLanes =
    16;  // running maxima and sums, whatever the width of the vectors: the same bits at every level

template <typename T>
T largest_of(const T* x, int64_t n) {
  T lanes[kLanes];
  for (T& lane : lanes) lane = -std::numeric_limits<T>::max();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = maximum(x[i + lane], lanes[lane]);
  }
  T largest = lanes[0];
  for (const T lane : lanes) largest = maximum(lane, largest);
  for (; i < n; ++i) largest = maximum(x[i], largest);
  return largest;
}

// x becomes e^(x - largest); returns their sum. A NaN logit makes the sum NaN.
template <typename T>
T exponentials(T* __restrict__ x, int64_t n, T largest) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const T e = exp_of_negative<PYDET_LEVEL_IS_FUSED>(x[i + lane] - largest);
      x[i + lane] = e;
      lanes[lane] += e;
    }
  }
  T sum = T(0);
  for (; i < n; ++i) {
    x[i] = exp_of_negative<PYDET_LEVEL_IS_FUSED>(x[i] - largest);
    sum += x[i];
  }
  for (int64_t step = kLanes / 2; step > 0; step /= 2) {
    for (int64_t lane = 0; lane < step; ++lane) lanes[lane] += lanes[lane + step];
  }
  return lanes[0] + sum;
}

// Row `row`; `e` has room for its exponentials.
template <typename T, typename In>
void softmax_focal_row(const SoftmaxFocalJob<T, In>& job, int64_t row, T* __restrict__ e) {
  const int64_t n = job.num_classes, label = job.classes[row];
  const In* __restrict__ in = job.inputs + row * n;
  In* __restrict__ out = job.gradients + row * n;
  if (label < 0) {  // ignored
    job.losses[row] = T(0);
    for (int64_t c = 0; job.gradients != nullptr && c < n; ++c) out[c] = static_cast<In>(0.0f);
    return;
  }
  for (int64_t c = 0; c < n; ++c) e[c] = finite_logit(static_cast<T>(widen(in[c])));
  const T logit = e[label];
  const T largest = largest_of(e, n);
  const T sum = exponentials(e, n, largest);
  const T own = e[label];
  e[label] = T(0);
  // 1 - p by addition where p is near 1, by subtraction where it is not: both keep their digits.
  T others = sum - own;
  if (own == T(1)) {
    others = T(0);
    for (int64_t c = 0; c < n; ++c) others += e[c];
  }
  const FocalOfSoftmax<T> f = focal_of_softmax<PYDET_LEVEL_IS_FUSED>(logit - largest, own, others, job.gamma);
  const T scale = job.weight != nullptr ? job.alpha * job.weight[label] : job.alpha;
  job.losses[row] = scale * f.loss;
  if (job.gradients == nullptr) return;
  T factor = job.scale * scale * f.slope;
  if (job.upstream.data != nullptr) factor *= job.upstream.data[job.upstream.single ? 0 : row];
  const T total = own + others;
  const T others_factor = -factor / total;
  for (int64_t c = 0; c < n; ++c) out[c] = static_cast<In>(others_factor * e[c]);
  out[label] = static_cast<In>(factor * (others / total));
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
