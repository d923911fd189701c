// The best scores of each image: so many that they fill the output, so few that they fit a workspace of known size.
//
// A score has a place in the order of its image, `key << 32 | index`, so that no two are equal and equal scores are
// ordered by row and class. A pass over all scores counts the places in 4,096 bins, and the last block of an image
// finds the bin in which the wanted number is reached. If what lies up to its end fits the workspace, the next pass
// takes that to it; else the bin is divided by another pass. The bins of the first pass lie between a score of 1 and
// the threshold, so that it is nearly always the only one; later passes are launched all the same and return at once.
//
// Cost: two reads of all scores at the speed of memory. What is kept of the best candidates does not depend on the
// others; if they have not filled the output, another round takes the best of what they leave over.
#pragma once

#include "block_sum.cuh"
#include "multiclass_scores.cuh"

namespace pydet {
namespace {

constexpr unsigned kBins = 4096;
constexpr unsigned kScanBlock = 512;  // threads; at least one block is resident: asked for more, ptxas spills in double
constexpr unsigned kBinsOfThread = kBins / kScanBlock;

enum class Phase : int { searching, selected, finished };

template <typename P>
struct ImageState {
  P done;  // what lies before it is kept or suppressed
  P low, limit;  // where the wanted number is reached: the first bin has what lies between `done` and `low`
  P end;  // of what has been selected, from `done` on
  int shift;  // places of a bin: 2^shift
  Phase phase;
  bool last;  // nothing lies behind `end`
  unsigned kept;
  unsigned tickets;  // blocks that have counted; 0 again after the last

  __device__ void search(P from, P to) {
    low = from;
    limit = to;
    shift = 0;
    while ((limit - 1 - low) >> shift >= kBins - 1) ++shift;
    phase = Phase::searching;
  }
};

// All that a selection needs. `wanted` of the scores are looked for, `room` for them there is.
template <typename T, typename In>
struct Selection {
  using S = typename ScoreView<In>::Score;

  ScoreView<In> scores;
  CandidateBoxes<T> boxes;
  S threshold;
  NmsRule<T> rule;
  unsigned wanted, room;
  int64_t capacity;  // room, and what has been kept before
  unsigned parts;  // blocks of an image
  ImageState<Place<S>>* states;  // [images]
  unsigned* bins;  // [images, kBins], zero
  KeptBoxes<T> kept;
  unsigned* counts;  // [images] candidates, [images, capacity] their keys and indices
  uint64_t* keys;
  unsigned* indices;

  // The place of threshold, behind all scores above it.
  __device__ Place<S> limit() const { return Place<S>(descending_key(threshold)) << 32; }
  // A guess at where scores begin: most are probabilities.
  __device__ Place<S> guess() const { return threshold < S(1) ? Place<S>(descending_key(S(1))) << 32 : 0; }

  // visit(place, index) for a block's part of the candidates between two places that nothing kept suppresses.
  template <typename Visit>
  __device__ void for_each(int64_t image, unsigned part, unsigned all_parts, const Place<S>& begin, const Place<S>& end,
                           unsigned kept_count, const Visit& visit) const {
    const unsigned thread = part * blockDim.x + threadIdx.x;
    scores.for_each_above(threshold, image, thread, all_parts * blockDim.x, [&](S score, unsigned index) {
      const Place<S> place = place_of(score, index);
      if (place < begin || place >= end) return;
      if (kept_count > 0 &&
          kept.suppress(image, kept_count, boxes.box(image, index), boxes.segment(image, index), rule)) {
        return;
      }
      visit(place, index);
    });
  }
};

// The last block of an image: where the wanted number is reached. Clears the bins.
template <typename P>
__device__ void divide(ImageState<P>& state, unsigned* bins, unsigned wanted, unsigned room) {
  unsigned own[kBinsOfThread], sum = 0, total = 0;
  for (unsigned k = 0; k < kBinsOfThread; ++k) {
    own[k] = load_relaxed(bins + threadIdx.x * kBinsOfThread + k);
    bins[threadIdx.x * kBinsOfThread + k] = 0;
    sum += own[k];
  }
  unsigned through = sum_before(sum, total);  // the end of a bin
  if (total <= room) {
    if (threadIdx.x > 0) return;
    state.end = state.limit;
    state.last = true;
    state.phase = Phase::selected;
    return;
  }
  if (through >= wanted || through + sum < wanted) return;  // it is reached in another thread's bins
  unsigned bin = 0;
  for (unsigned k = 0; k < kBinsOfThread; ++k) {
    if (through >= wanted) continue;
    through += own[k];
    bin = threadIdx.x * kBinsOfThread + k;
  }
  const P begin = bin == 0 ? state.done : state.low + (P(bin - 1) << state.shift);
  const P behind = state.low + (P(bin) << state.shift), end = behind < state.limit ? behind : state.limit;
  if (through > room) return state.search(begin, end);
  state.end = end;
  state.last = false;
  state.phase = Phase::selected;
}

template <typename T, typename In>
__global__ void __launch_bounds__(kScanBlock, 1) count_scores_kernel(Selection<T, In> s) {
  using P = Place<typename Selection<T, In>::S>;
  __shared__ unsigned bins[kBins];
  __shared__ bool is_last;
  const unsigned image = blockIdx.x / s.parts, part = blockIdx.x % s.parts;
  ImageState<P>& state = s.states[image];
  if (state.phase != Phase::searching) return;
  for (unsigned bin = threadIdx.x; bin < kBins; bin += kScanBlock) bins[bin] = 0;
  __syncthreads();
  const P low = state.low;
  const int shift = state.shift;
  s.for_each(image, part, s.parts, state.done, state.limit, state.kept, [&](const P& place, unsigned) {
    atomicAdd(&bins[place < low ? 0 : 1 + static_cast<unsigned>((place - low) >> shift)], 1u);
  });
  __syncthreads();
  unsigned* const of_image = s.bins + int64_t{image} * kBins;
  for (unsigned bin = threadIdx.x; bin < kBins; bin += kScanBlock) {
    if (bins[bin] > 0) atomicAdd(of_image + bin, bins[bin]);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicInc(&state.tickets, s.parts - 1) == s.parts - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();  // what the other blocks have added is read from here on
  divide(state, of_image, s.wanted, s.room);
}

template <typename T, typename In>
__global__ void __launch_bounds__(kScanBlock, 1) take_scores_kernel(Selection<T, In> s) {
  using P = Place<typename Selection<T, In>::S>;
  const unsigned image = blockIdx.x / s.parts, part = blockIdx.x % s.parts;
  const ImageState<P>& state = s.states[image];
  if (state.phase != Phase::selected) return;
  s.for_each(image, part, s.parts, state.done, state.end, state.kept, [&](const P& place, unsigned index) {
    const int64_t slot = image * s.capacity + atomicAdd(s.counts + image, 1u);
    s.keys[slot] = static_cast<uint64_t>(place >> 32);
    s.indices[slot] = index;
  });
}

}  // namespace
}  // namespace pydet
