// The kernel of sigmoid_focal_loss: any of losses, their sum and gradients, in one pass over the logits.
#pragma once

#include <cmath>
#include <type_traits>

#include "focal_loss.cuh"

namespace pydet {

// A block of threads takes kSteps times 16 bytes of logits a thread; their losses are one sum.
constexpr int kSteps = 8;

template <typename T, typename In>
struct SigmoidFocalJob {
  FocalParameters<T> parameters;
  const In* inputs;
  int64_t numel;
  bool aligned;            // all tensors begin where 16 bytes do
  const In* labels;        // one for each logit, of its dtype, or null
  const T* wide_labels;    // of that of the arithmetic, or null
  const int64_t* classes;  // one for each row, or null
  int num_classes;         // logits of a row
  double rows_of_value;    // 1 / num_classes
  T* losses;               // one for each logit, or null
  double* sums;            // one for each block, or null
  In* gradients;           // one for each logit, or null
  Upstream<T> upstream;    // no data for 1
  double scale;
  const double* factor;  // of the scale, or null
};

// The row of a value, and its place in it.
struct Place {
  int64_t row;
  int column;
};

// By a multiplication: a division in 64 bits is a call, around which registers are spilled. `value` is below 2^53.
template <typename T, typename In>
__device__ Place place_of(const SigmoidFocalJob<T, In>& job, int64_t value) {
  int64_t row = static_cast<int64_t>(static_cast<double>(value) * job.rows_of_value);
  int64_t column = value - row * job.num_classes;
  row += column >= job.num_classes ? 1 : column < 0 ? -1 : 0;
  column += column >= job.num_classes ? -job.num_classes : column < 0 ? job.num_classes : 0;
  return {row, static_cast<int>(column)};
}

// Of any value. Classes beyond the last one are background.
template <FocalPower kPower, bool kClasses, typename T, typename In>
__device__ LossAndGradient<T> focal_of_value(const SigmoidFocalJob<T, In>& job, int64_t i, T x, T t) {
  if (kClasses) {
    const Place place = place_of(job, i);
    const int64_t label = job.classes[place.row];
    if (label < 0) return {T(0), T(0)};
    t = T(label == place.column);
  }
  return focal<kPower, true>(x, t, job.parameters.alpha, job.parameters.not_alpha, job.parameters.gamma);
}

// Which of the values of a block are labelled: there is the class of a row, or a row is ignored. A bit for every kCount
// of them, those of a thread in its own word, the first of them lowest.
template <int kCount>
struct LabelledValues {
  unsigned of_threads[kFocalThreads];

  __device__ void set(int first, int end) {
    for (int i = first / kCount; i * kCount < end; ++i) {
      atomicOr(&of_threads[i % kFocalThreads], 1u << (i / kFocalThreads));
    }
  }

  // All threads of the block together.
  template <typename T, typename In>
  __device__ void find(const SigmoidFocalJob<T, In>& job, int64_t begin) {
    constexpr int kValues = kFocalThreads * kSteps * kCount;
    of_threads[threadIdx.x] = 0;
    __syncthreads();
    const int64_t last = place_of(job, begin + kValues - 1).row;
    for (int64_t row = place_of(job, begin).row + threadIdx.x; row <= last; row += kFocalThreads) {
      const int64_t label = job.classes[row], first = row * job.num_classes - begin, end = first + job.num_classes;
      if (label < 0) {
        set(first > 0 ? static_cast<int>(first) : 0, end < kValues ? static_cast<int>(end) : kValues);
      } else if (label < job.num_classes && first + label >= 0 && first + label < kValues) {
        set(static_cast<int>(first + label), static_cast<int>(first + label) + 1);
      }
    }
    __syncthreads();
  }
};

// Of the `count` values from `begin` on, those of this thread: kCount, and as many at every kFocalThreads * kCount
// behind them; returns the sum of their losses. `labelled` has a bit for each step, the first lowest, where kCount is
// more than 1. Most values are ordinary logits without a label: they have a path of their own, of 46 instructions a
// logit on Hopper with all that is around them: memory, 8 or 12 bytes for each, takes longer.
template <FocalPower kPower, bool kReduced, bool kClasses, int kCount, typename T, typename In>
__device__ double focal_of_thread(const SigmoidFocalJob<T, In>& job, int64_t begin, int count, T scale,
                                  unsigned labelled) {
  const FocalParameters<T>& f = job.parameters;
  double sum = 0;
#pragma unroll 1
  for (int i = threadIdx.x * kCount; i < count; i += kFocalThreads * kCount, labelled >>= 1) {
    T x[kCount], t[kCount], loss[kCount], gradient[kCount];
    load_values(job.inputs + begin + i, x);
    if (!kClasses && (std::is_same_v<T, In> || job.labels != nullptr)) {
      load_values(job.labels + begin + i, t);
    } else if (!kClasses) {
      load_values(job.wide_labels + begin + i, t);
    }
    bool plain = std::is_same_v<T, float> && !(kClasses && (kCount == 1 || (labelled & 1u)));
    for (int k = 0; k < kCount; ++k) {
      plain = plain && std::fabs(x[k]) <= T(kLargestOrdinary) && (kClasses || t[k] == T(0));
    }
    if (plain) {
      for (int k = 0; k < kCount; ++k) {
        const LossAndGradient<T> one = focal_of_background<kPower, true, true>(x[k], f.not_alpha, f.gamma);
        loss[k] = one.loss;
        gradient[k] = scale * one.gradient;
      }
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k) {  // unrolled, so that the arrays stay in registers
        const LossAndGradient<T> one = focal_of_value<kPower, kClasses>(job, begin + i + k, x[k], t[k]);
        loss[k] = one.loss;
        gradient[k] = scale * one.gradient;
      }
    }
    if (kReduced) {
      T of_step = loss[0];
      for (int k = 1; k < kCount; ++k) of_step += loss[k];
      sum += static_cast<double>(of_step);
    } else {
      if (job.losses != nullptr) store_values(loss, job.losses + begin + i);
      if (job.upstream.data != nullptr) {
        load_values(job.upstream.data + begin + i, t);
        for (int k = 0; k < kCount; ++k) gradient[k] *= t[k];
      }
    }
    if (job.gradients != nullptr) store_values(gradient, job.gradients + begin + i);
  }
  return sum;
}

// At least two blocks of float64 to a multiprocessor (0: nothing is said of others): told so, ptxas spills nothing.
template <FocalPower kPower, bool kReduced, bool kClasses, typename T, typename In>
__global__ void __launch_bounds__(kFocalThreads, sizeof(T) == 4 ? 0 : 2)
    sigmoid_focal_kernel(SigmoidFocalJob<T, In> job) {
  constexpr int kCount = 16 / sizeof(In), kValues = kFocalThreads * kCount * kSteps;
  __shared__ LabelledValues<kCount> labelled;
  __shared__ double of_warps[kFocalThreads / 32];
  T scale = static_cast<T>(job.factor != nullptr ? job.scale * *job.factor : job.scale);
  if (kReduced && job.upstream.data != nullptr) scale *= *job.upstream.data;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kValues;
  double sum;
  if (job.aligned && begin + kValues <= job.numel) {
    if (kClasses) labelled.find(job, begin);
    const unsigned own = kClasses ? labelled.of_threads[threadIdx.x] : 0;
    sum = focal_of_thread<kPower, kReduced, kClasses, kCount>(job, begin, kValues, scale, own);
  } else {
    const int count = static_cast<int>(begin + kValues < job.numel ? kValues : job.numel - begin);
    sum = focal_of_thread<kPower, kReduced, kClasses, 1>(job, begin, count, scale, 0);
  }
  if (kReduced && job.sums != nullptr) {
    sum = block_sum<kFocalThreads>(sum, of_warps);
    if (threadIdx.x == 0) job.sums[blockIdx.x] = sum;
  }
}

}  // namespace pydet
