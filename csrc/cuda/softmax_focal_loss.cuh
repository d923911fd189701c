// The kernel of softmax_focal_loss: any of losses, their sum and gradients, in one pass over the logits.
#pragma once

#include <limits>

#include "focal_loss.cuh"

namespace pydet {

// Lanes of a warp that share a row: few, since what comes once a row (two reductions, a logarithm, two divisions) is
// done by all of them, and enough that rows of 80 classes keep all of them busy.
constexpr int kLanes = 16;
constexpr int kHeld = 8;         // logits of a lane that stay in registers: rows of up to 128 classes
constexpr int kRowsOfWarp = 16;  // their losses are one sum
constexpr int kWarps = kFocalThreads / 32;
constexpr int kRowsOfBlock = kWarps * kRowsOfWarp;
constexpr int kMostStaged = 384;  // classes: 48 KiB of tiles for a block

// Rows begin anywhere, but so many of them take 16 bytes for each class, whatever the dtype: a tile, which a warp
// brings to shared memory and back in accesses of 16 bytes.
template <typename In>
constexpr int kTileRows = 16 / sizeof(In);

template <typename T, typename In>
struct SoftmaxFocalJob {
  const In* inputs;        // [N, C]
  const int64_t* classes;  // [N]
  int64_t rows;
  int num_classes;
  bool staged;      // by tiles in shared memory: inputs and gradients begin where 16 bytes do, and tiles are small
  const T* weight;  // one for each class, or null
  T alpha, gamma;
  T* losses;             // one for each row, or null
  double* sums;          // one for each block, or null
  In* gradients;         // one for each logit, or null
  Upstream<T> upstream;  // no data for 1
  T scale;
};

template <typename T>
__device__ T maximum_of_row(T value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = maximum(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

template <typename T>
__device__ T sum_of_row(T value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// The logits of a row that are a lane's, every kLanes-th: in registers where all of them fit, else read again.
template <bool kInRegisters, typename T, typename In>
struct LogitsOfLane {
  const In* row;
  int num_classes, lane;
  T held[kInRegisters ? kHeld : 1];  // logits, then their exponentials
  T largest;

  __device__ LogitsOfLane(const In* row, int num_classes, int lane) : row(row), num_classes(num_classes), lane(lane) {
    for (int k = 0; kInRegisters && k < kHeld; ++k) {
      held[k] = k * kLanes + lane < num_classes ? load(k * kLanes + lane) : -std::numeric_limits<T>::max();
    }
  }

  __device__ T load(int c) const { return finite_logit(static_cast<T>(row[c])); }

  __device__ T find_largest() {
    T found = -std::numeric_limits<T>::max();
    if (kInRegisters) {
      for (int k = 0; k < kHeld; ++k) found = maximum(held[k], found);
    } else {
      for (int c = lane; c < num_classes; c += kLanes) found = maximum(load(c), found);
    }
    largest = maximum_of_row(found);
    return largest;
  }

  // function(class, exponential) for each.
  template <typename Function>
  __device__ void each_exponential(const Function& function) {
    if (kInRegisters) {
      for (int k = 0; k < kHeld; ++k) {
        if (k * kLanes + lane < num_classes) function(k * kLanes + lane, held[k]);
      }
    } else {
      for (int c = lane; c < num_classes; c += kLanes) function(c, exp_of_negative<true>(load(c) - largest));
    }
  }

  // Of all exponentials but that of the label.
  __device__ T sum_of_others(int64_t label) {
    for (int k = 0; kInRegisters && k < kHeld; ++k) {
      if (k * kLanes < num_classes) held[k] = exp_of_negative<true>(held[k] - largest);
    }
    T sum = T(0);
    each_exponential([&](int c, T e) { sum += c == label ? T(0) : e; });
    return sum_of_row(sum);
  }
};

// Row `row` with its logits at `in` and its gradient, if it is wanted, at `out`, which may be the same place; by kLanes
// threads together, all of a warp must come. Returns its loss. Classes beyond the last one are ignored, as negative
// ones.
template <bool kInRegisters, typename T, typename In>
__device__ T focal_of_row(const SoftmaxFocalJob<T, In>& job, int64_t row, const In* in, In* out, int lane) {
  const bool inside = row < job.rows;
  const int64_t label = inside ? job.classes[row] : -1;
  const bool counts = label >= 0 && label < job.num_classes;
  LogitsOfLane<kInRegisters, T, In> logits(in, counts ? job.num_classes : 0, lane);
  const T largest = logits.find_largest(), others = logits.sum_of_others(label);
  const T shifted = counts ? logits.load(static_cast<int>(label)) - largest : T(0);
  __syncwarp();  // all have read that logit before its gradient is written there
  if (!counts) {
    for (int c = lane; inside && out != nullptr && c < job.num_classes; c += kLanes) out[c] = static_cast<In>(0.0f);
    return T(0);
  }
  const T own = exp_of_negative<true>(shifted);
  const FocalOfSoftmax<T> f = focal_of_softmax<true>(shifted, own, others, job.gamma);
  const T scale = job.weight != nullptr ? job.alpha * job.weight[label] : job.alpha;
  if (out != nullptr) {
    T factor = job.scale * scale;
    if (job.upstream.data != nullptr) factor *= job.upstream.data[job.upstream.single ? 0 : row];
    const T others_factor = factor * f.others_slope, own_gradient = factor * f.own_slope;
    logits.each_exponential(
        [&](int c, T e) { out[c] = static_cast<In>(c == label ? own_gradient : others_factor * e); });
  }
  return scale * f.loss;
}

// kTileRows rows from `first` on, with their logits at `in` and their gradients at `out`; returns the losses of those
// of this thread.
template <bool kInRegisters, typename T, typename In>
__device__ double focal_of_rows(const SoftmaxFocalJob<T, In>& job, int64_t first, const In* in, In* out) {
  const int lane = threadIdx.x % kLanes;
  double sum = 0;
#pragma unroll 1
  for (int pair = 0; pair < kTileRows<In>; pair += 32 / kLanes) {
    const int i = pair + threadIdx.x % 32 / kLanes;
    const int64_t row = first + i, at = static_cast<int64_t>(i) * job.num_classes;
    const T loss = focal_of_row<kInRegisters>(job, row, in + at, out != nullptr ? out + at : nullptr, lane);
    if (lane == 0 && row < job.rows && job.losses != nullptr) job.losses[row] = loss;
    if (lane == 0) sum += static_cast<double>(loss);
  }
  return sum;
}

// A tile from one place to another, by a warp.
template <typename In>
__device__ void copy_tile(const In* from, In* to, int num_classes) {
  using Vector = Values<In, kTileRows<In>>;
  for (int i = threadIdx.x % 32; i < num_classes; i += 32) {
    reinterpret_cast<Vector*>(to)[i] = reinterpret_cast<const Vector*>(from)[i];
  }
}

// At least so many blocks to a multiprocessor: told so, ptxas spills nothing.
template <bool kInRegisters, typename T, typename In>
__global__ void __launch_bounds__(kFocalThreads, sizeof(T) == 4 ? 4 : 2)
    softmax_focal_kernel(SoftmaxFocalJob<T, In> job) {
  PYDET_DYNAMIC_SHARED(In, tiles);  // one for each warp
  __shared__ double of_warps[kWarps];
  const int warp = threadIdx.x / 32;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kRowsOfWarp;
  In* const tile = tiles + warp * kTileRows<In> * job.num_classes;
  double sum = 0;
#pragma unroll 1
  for (int step = 0; step < kRowsOfWarp; step += kTileRows<In>) {  // as often for all warps: shuffles must meet
    const int64_t first = begin + step;
    const In* const in = job.inputs + first * job.num_classes;
    In* const out = job.gradients != nullptr ? job.gradients + first * job.num_classes : nullptr;
    const bool staged = job.staged && first + kTileRows<In> <= job.rows;
    if (staged) copy_tile(in, tile, job.num_classes);
    __syncwarp();
    sum += focal_of_rows<kInRegisters>(job, first, staged ? tile : in, staged && out != nullptr ? tile : out);
    __syncwarp();
    if (staged && out != nullptr) copy_tile(tile, out, job.num_classes);  // each lane what it fills with the next tile
  }
  if (job.sums != nullptr) {
    sum = block_sum<kFocalThreads>(sum, of_warps);
    if (threadIdx.x == 0) job.sums[blockIdx.x] = sum;
  }
}

}  // namespace pydet
