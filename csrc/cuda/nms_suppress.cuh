// Greedy suppression of ranked boxes, segment by segment, in two launches, whatever the number of boxes and segments
// is.
//
// Neighbours. Boxes are sorted by neighbour_key; 32 boxes in a row are a tile and 32 tiles a region, each with the
// bounds of what lies in it: of corners, areas, hashes of segments, and its best rank. A warp looks for what may
// suppress one box: each lane tests a region, then a tile of those regions that are near, then a box of those tiles.
// With 100,000 boxes of a detector that is 40 such steps a box instead of 50,000 IoUs, and no mask of N^2 bits.
//
// Order. A box is kept when all better boxes that overlap it enough are suppressed, and suppressed when one of them is
// kept. Each box has a warp, in the order of the ranks, so that most boxes find everything above them decided. One that
// does not, waits for the best undecided box that overlaps it: it looks at it a number of times and then enters the
// list of its watchers. Whoever decides a box goes on with its watchers. So nothing ever depends on when, or whether at
// the same time, two blocks run; no launch has to be repeated; and the result is that of the sequential algorithm,
// which is the only one that fulfils the first sentence. An undecided box is always in somebody's hands or on the list
// of a better undecided box, so the last warp to finish leaves none.
//
// Cost. A box reads 32 bytes a node and 20 a neighbour, from the L1 or L2 cache; about 40 instructions a step. Where
// every box waits for the one before it (a grid of equal boxes with equal scores), the steps of one box follow those of
// another, about 2 us each. Where everything overlaps everything with an IoU below the threshold, all tiles are
// visited. Included behind nms_sort.cuh.
#pragma once

#include "nms_sort.cuh"
#include "workspace.cuh"

namespace pydet {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr unsigned kRegion = 1024;  // boxes
constexpr unsigned kResolvers = 8;  // warps of a block: one box each
constexpr int kResident = 4;  // blocks of a multiprocessor at least: left to itself, ptxas spills
constexpr int kLooks = 256;  // about 0.1 ms: enough nearly always, since the better box is being worked on

// What is known of a box: kept, suppressed, or else the first of the boxes that wait for it, kOpen where none does.
enum : int { kOpen = -1, kKept = -2, kSuppressed = -3 };

struct alignas(16) NmsNode {
  float x1, y1, x2, y2;
  float smallest, largest;  // areas
  unsigned best;  // rank
  unsigned segments;  // lowest and, shifted by 16, highest hash
};

// Arrays of all problems. By rank, [problems, capacity]: ranked, segments (or null), states, next. By neighbourhood:
// leaves and their ranks, 32 slots of tiles for each region.
template <typename T>
struct NmsBoxes {
  Box<T>* ranked;
  int64_t* segments;
  int* states;
  int* next;
  Box<T>* leaves;
  const uint32_t* leaf_ranks;
  NmsNode* tiles;
  NmsNode* regions;

  __device__ NmsBoxes of(int64_t problem, int64_t capacity) const {
    const int64_t first = problem * capacity, region = problem * ((capacity + kRegion - 1) / kRegion);
    return {ranked + first,      segments ? segments + first : nullptr,
            states + first,      next + first,
            leaves + first,      leaf_ranks + first,
            tiles + 32 * region, regions + region};
  }

  // A box that nothing is known of yet, with what it is sorted by: what cannot overlap anything comes last.
  __device__ SortPair add(uint32_t rank, const Box<T>& box, int64_t segment, const NmsRule<T>& rule) const {
    const T box_area = area(box);
    ranked[rank] = box;
    states[rank] = kOpen;
    if (segments) segments[rank] = segment;
    const bool takes_part = rule.everything || can_overlap(box, box_area);
    return {takes_part ? neighbour_key(box, box_area, segments ? segment_hash(segment) : 0) : ~uint64_t{0}, rank};
  }
};

__device__ inline NmsNode joined(const NmsNode& a, const NmsNode& b) {
  const unsigned lowest = min(a.segments & 0xffff, b.segments & 0xffff);
  return {min(a.x1, b.x1),
          min(a.y1, b.y1),
          max(a.x2, b.x2),
          max(a.y2, b.y2),
          min(a.smallest, b.smallest),
          max(a.largest, b.largest),
          min(a.best, b.best),
          lowest | max(a.segments >> 16, b.segments >> 16) << 16};
}

__device__ inline NmsNode joined_of_warp(NmsNode node) {
  for (int flip = 16; flip; flip >>= 1) {
    const NmsNode other{__shfl_xor_sync(kAll, node.x1, flip),       __shfl_xor_sync(kAll, node.y1, flip),
                        __shfl_xor_sync(kAll, node.x2, flip),       __shfl_xor_sync(kAll, node.y2, flip),
                        __shfl_xor_sync(kAll, node.smallest, flip), __shfl_xor_sync(kAll, node.largest, flip),
                        __shfl_xor_sync(kAll, node.best, flip),     __shfl_xor_sync(kAll, node.segments, flip)};
    node = joined(node, other);
  }
  return node;
}

// A block makes a region: thread i brings box i of it to its place.
template <typename T>
__global__ void __launch_bounds__(kRegion) make_nodes_kernel(Problems problems, NmsRule<T> rule, NmsBoxes<T> all) {
  __shared__ NmsNode tiles[32];
  const BlockPlace place = place_of_block(problems, kRegion);
  const NmsBoxes<T> boxes = all.of(place.problem, problems.capacity);
  const unsigned n = problems.count(place.problem), i = place.first + threadIdx.x, warp = threadIdx.x / 32;
  if (place.first >= n) return;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  NmsNode node{kInfinity, kInfinity, -kInfinity, -kInfinity, kInfinity, -kInfinity, ~0u, 0xffffu};
  if (i < n) {
    const unsigned rank = boxes.leaf_ranks[i];
    const Box<T> box = boxes.ranked[rank];
    boxes.leaves[i] = box;
    const T box_area = area(box);
    if (rule.everything || can_overlap(box, box_area)) {
      const unsigned hash = boxes.segments ? segment_hash(boxes.segments[rank]) : 0;
      node = {rounded_down(box.x1),
              rounded_down(box.y1),
              rounded_up(box.x2),
              rounded_up(box.y2),
              rounded_down(box_area),
              rounded_up(box_area),
              rank,
              hash | hash << 16};
    }
  }
  node = joined_of_warp(node);
  if (threadIdx.x % 32 == 0) {
    tiles[warp] = node;
    boxes.tiles[place.first / 32 + warp] = node;
  }
  __syncthreads();
  if (warp > 0) return;
  node = joined_of_warp(tiles[threadIdx.x]);
  if (threadIdx.x == 0) boxes.regions[place.first / kRegion] = node;
}

template <typename T>
struct NmsQuery {
  Box<T> box;
  T area;
  T width, height;  // of an overlap with enough IoU, at least
  unsigned rank, hash;
};

// With an IoU above t the boxes share at least t of the width, the height and the area of either. Differences and
// products are rounded monotonically, so that what holds for a box holds for the bounds around it. Not where an area is
// so small that it has lost its digits: there it says nothing about widths.
template <typename T>
__device__ bool may_suppress(const NmsNode& node, const NmsQuery<T>& q, const NmsRule<T>& rule) {
  const bool better = node.best < q.rank && (node.segments & 0xffff) <= q.hash && q.hash <= node.segments >> 16;
  const bool near = T(node.x2) - q.box.x1 >= q.width && q.box.x2 - T(node.x1) >= q.width &&
                    T(node.y2) - q.box.y1 >= q.height && q.box.y2 - T(node.y1) >= q.height &&
                    T(node.largest) >= rule.low * q.area && rule.low * T(node.smallest) <= q.area;
  return better && (near || rule.everything);
}

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
