// Which boxes may suppress a box: boxes are sorted by neighbour_key, 32 in a row are a tile and 32 tiles a region, each
// with the bounds of what lies in it: of corners, areas, hashes of segments, and its best rank. A warp that looks for
// what may suppress one box tests a region in each lane, then the tiles of those regions that are near, then the boxes
// of those tiles. With 100,000 boxes of a detector that is 40 such steps a box instead of 50,000 IoUs.
#pragma once

#include "nms_sort.cuh"
#include "workspace.cuh"

namespace pydet {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr unsigned kRegion = 1024;  // boxes

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

}  // namespace
}  // namespace pydet
