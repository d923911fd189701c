// Greedy suppression of ranked boxes, segment by segment, in two launches, whatever the number of boxes and segments
// is.
//
// A box is kept when all better boxes that overlap it enough are suppressed, and suppressed when one of them is kept.
// Each box has a warp, in the order of the ranks, so that most boxes find everything above them decided. One that does
// not, waits for the best undecided box that overlaps it: it looks at it a number of times and then enters the list of
// its watchers. Whoever decides a box goes on with its watchers. So nothing ever depends on when, or whether at the
// same time, two blocks run; no launch has to be repeated; and the result is that of the sequential algorithm, which is
// the only one that fulfils the first sentence. An undecided box is always in somebody's hands or on the list of a
// better undecided box, so the last warp to finish leaves none.
//
// Cost: a step (nms_neighbours.cuh) reads 32 nodes of 32 bytes or 32 boxes of 20, from the L1 or L2 cache, and takes
// about 40 instructions; 100,000 boxes of a detector 4 million steps. Where every box waits for the one before it (a
// grid of equal boxes with equal scores), the steps of one box follow those of another, about 2 us each. Where
// everything overlaps everything with an IoU below the threshold, all tiles are visited: N^2 / 32 steps.
#pragma once

#include "nms_neighbours.cuh"

namespace pydet {
namespace {

constexpr unsigned kResolvers = 8;  // warps of a block: one box each
constexpr int kResident = 4;  // blocks of a multiprocessor at least: left to itself, ptxas spills
constexpr int kLooks = 256;  // about 0.1 ms: enough nearly always, since the better box is being worked on

// For all lanes: kKept where all better boxes that could suppress this one are suppressed, kSuppressed where one of
// them is kept, or else the best of those that are undecided.
template <typename T>
__device__ int find_suppressor(const NmsBoxes<T>& boxes, unsigned n, int64_t rank, const NmsRule<T>& rule) {
  const Box<T> box = boxes.ranked[rank];
  const T box_area = area(box);
  if (!rule.everything && !can_overlap(box, box_area)) return kKept;
  const int64_t segment = boxes.segments ? boxes.segments[rank] : 0;
  const T part = area_level(box_area) >= nms_lowest_level<T>() ? rule.low : T(0);
  const NmsQuery<T> q{box,
                      box_area,
                      part * (box.x2 - box.x1),
                      part * (box.y2 - box.y1),
                      static_cast<unsigned>(rank),
                      boxes.segments ? segment_hash(segment) : 0};
  const unsigned lane = threadIdx.x % 32, regions = (n + kRegion - 1) / kRegion;
  unsigned best = ~0u;
  for (unsigned first = 0; first < regions; first += 32) {
    const bool region_near = first + lane < regions && may_suppress(boxes.regions[first + lane], q, rule);
    for (unsigned near = __ballot_sync(kAll, region_near); near; near &= near - 1) {
      const unsigned tile = (first + __ffs(static_cast<int>(near)) - 1) * 32;
      const bool tile_near = may_suppress(boxes.tiles[tile + lane], q, rule);
      for (unsigned near_tiles = __ballot_sync(kAll, tile_near); near_tiles; near_tiles &= near_tiles - 1) {
        const unsigned leaf = (tile + __ffs(static_cast<int>(near_tiles)) - 1) * 32 + lane;
        int state = kSuppressed;
        if (leaf < n) {
          const Box<T> other = boxes.leaves[leaf];
          const unsigned other_rank = boxes.leaf_ranks[leaf];
          if (other_rank < q.rank && suppresses(other, area(other), box, box_area, rule) &&
              (!boxes.segments || boxes.segments[other_rank] == segment)) {
            state = load_relaxed(boxes.states + other_rank);
            if (state >= kOpen) best = min(best, other_rank);
          }
        }
        if (__any_sync(kAll, state == kKept)) return kSuppressed;
      }
    }
  }
  for (int flip = 16; flip; flip >>= 1) best = min(best, __shfl_xor_sync(kAll, best, flip));
  return best == ~0u ? kKept : static_cast<int>(best);
}

// The rest is for one lane. A box belongs to the warp that works on it, and so does its entry in `next`, until it is on
// the list of another one; fences order the entry and the list it is read by.

// Enters the list of `other`, unless that is decided by now: kOpen, or the decision.
template <typename T>
__device__ int wait_for(const NmsBoxes<T>& boxes, int other, int rank) {
  int* const list = boxes.states + other;
  int top = load_relaxed(list);
  for (int i = 0; i < kLooks && top >= kOpen; ++i) top = load_relaxed(list);
  while (top >= kOpen) {
    store_relaxed(boxes.next + rank, top);
    __threadfence();
    const int seen = atomicCAS(list, top, rank);
    if (seen == top) return kOpen;
    top = seen;
  }
  return top;
}

// Sets the decision; puts those that waited for it in front of the boxes that are still to be worked on.
template <typename T>
__device__ int decide(const NmsBoxes<T>& boxes, int rank, int decision, int rest) {
  int watcher = atomicExch(boxes.states + rank, decision);
  __threadfence();
  while (watcher != kOpen) {
    const int after = load_relaxed(boxes.next + watcher);
    store_relaxed(boxes.next + watcher, rest);
    rest = watcher;
    watcher = after;
  }
  return rest;
}

// A kept box decides all its watchers; theirs have to look again.
template <typename T>
__device__ int keep(const NmsBoxes<T>& boxes, int rank, int rest) {
  int watcher = decide(boxes, rank, kKept, kOpen);
  while (watcher != kOpen) {
    const int after = load_relaxed(boxes.next + watcher);
    rest = decide(boxes, watcher, kSuppressed, rest);
    watcher = after;
  }
  return rest;
}

template <typename T>
__global__ void __launch_bounds__(kResolvers * 32, kResident)
    suppress_kernel(Problems problems, NmsRule<T> rule, NmsBoxes<T> all) {
  const BlockPlace place = place_of_block(problems, kResolvers);
  const NmsBoxes<T> boxes = all.of(place.problem, problems.capacity);
  const unsigned n = problems.count(place.problem), first = place.first + threadIdx.x / 32;
  if (first >= n) return;
  int rank = static_cast<int>(first), rest = kOpen;
  for (;;) {
    const int found = find_suppressor(boxes, n, rank, rule);
    int again = 0, following = kOpen;
    if (threadIdx.x % 32 == 0) {
      const int other = found >= 0 ? wait_for(boxes, found, rank) : kOpen;
      again = other == kSuppressed;
      if (found == kKept) rest = keep(boxes, rank, rest);
      if (found == kSuppressed || other == kKept) rest = decide(boxes, rank, kSuppressed, rest);
      if (!again && rest != kOpen) following = load_relaxed(boxes.next + rest);
    }
    if (__shfl_sync(kAll, again, 0)) continue;
    rank = __shfl_sync(kAll, rest, 0);
    rest = __shfl_sync(kAll, following, 0);
    if (rank == kOpen) return;
  }
}

// All arrays of a call: keys are sorted twice in the same place, the order by score is needed to the end.
template <typename T>
struct NmsMemory {
  Tensor bytes;
  SortMemory by_score, by_neighbourhood;
  NmsBoxes<T> boxes;

  NmsMemory(const Tensor& like, int64_t problems, int64_t capacity, bool segments) {
    const int64_t n = problems * capacity, regions = problems * ((capacity + kRegion - 1) / kRegion);
    bytes = allocate(like, [&](Workspace& workspace) {
      for (int i = 0; i < 2; ++i) {
        workspace.cut(by_score.keys[i], n);
        workspace.cut(by_score.values[i], n);
        by_neighbourhood.keys[i] = by_score.keys[i];
        workspace.cut(by_neighbourhood.values[i], n);
      }
      workspace.cut(boxes.segments, segments ? n : 0);
      if (!segments) boxes.segments = nullptr;
      workspace.cut(boxes.ranked, n);
      workspace.cut(boxes.states, n);
      workspace.cut(boxes.next, n);
      workspace.cut(boxes.leaves, n);
      workspace.cut(boxes.tiles, 32 * regions);
      workspace.cut(boxes.regions, regions);
    });
  }

  // The value of the pair with each rank.
  template <typename Source>
  const uint32_t* sort_by_score(const Source& source, const Problems& problems, cudaStream_t stream) const {
    return by_score.values[sort_pairs(source, problems, by_score, stream)];
  }

  // Decides boxes.states[rank] of all boxes; `source` adds them to `boxes`.
  template <typename Source>
  void suppress(const Source& source, const Problems& problems, const NmsRule<T>& rule, cudaStream_t stream) const {
    NmsBoxes<T> all = boxes;
    all.leaf_ranks = by_neighbourhood.values[sort_pairs(source, problems, by_neighbourhood, stream)];
    launch(make_nodes_kernel<T>, dim3(static_cast<unsigned>(blocks_of(problems, kRegion))), dim3(kRegion), 0, stream,
           problems, rule, all);
    launch(suppress_kernel<T>, dim3(static_cast<unsigned>(blocks_of(problems, kResolvers))), dim3(kResolvers * 32), 0,
           stream, problems, rule, all);
  }
};

}  // namespace
}  // namespace pydet
