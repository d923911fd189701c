// How the operators on a WordTree share [..., N] among blocks: each takes some nodes of 32 positions.
#pragma once

#include "../checks/tree.h"
#include "../positions.h"
#include "../widen.h"
#include "cuda_utils.cuh"

namespace pydet {

constexpr int kTreeLanes = 32;  // positions of a tile

struct TreeTile {
  unsigned outer;
  int64_t inner, node;  // the first ones
  int lanes;            // inner positions, at most kTreeLanes
};

struct TreeTiles {
  int64_t inner;
  unsigned positions, of_inner, chunks;  // tiles of all positions, of the inner ones; parts of the nodes
  int nodes;                             // of a part
  bool planes;                           // neighbouring blocks take neighbouring positions, else neighbouring nodes

  unsigned blocks() const { return positions * chunks; }

  // Counted in 32 bits: divisions of 64 are calls.
  __device__ TreeTile of_block(unsigned block) const {
    const unsigned chunk = planes ? block / positions : block % chunks;
    const unsigned position = planes ? block % positions : block / chunks;
    const int64_t first = int64_t{position % of_inner} * kTreeLanes;
    return {position / of_inner, first, int64_t{chunk} * nodes,
            static_cast<int>(min(inner - first, int64_t{kTreeLanes}))};
  }
};

// `p` ends with the output; a part has `part` nodes.
template <int kTensors>
TreeTiles tiles_of(const char* op, const Positions<kTensors>& p, int64_t nodes, int part) {
  const int64_t of_inner = (p.inner + kTreeLanes - 1) / kTreeLanes, chunks = (nodes + part - 1) / part;
  PYDET_CHECK(p.outer * of_inner * chunks <= INT32_MAX, op, ": a tensor must have fewer values on a GPU, got ",
              p.outer * p.inner, " positions of ", nodes, " nodes");
  return {p.inner,
          static_cast<unsigned>(p.outer * of_inner),
          static_cast<unsigned>(of_inner),
          static_cast<unsigned>(chunks),
          part,
          p.lane[kTensors - 1] == 1};
}

// visit(position of the tile, node of the part) for all values of a tile of `nodes` nodes, a block together: lanes
// follow what lies together, the nodes of rows or the positions of a map.
template <int kWarps, typename Visit>
__device__ void for_each_value(bool along_nodes, int lanes, int nodes, const Visit& visit) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  if (along_nodes) {
    for (int i = warp; i < lanes; i += kWarps) {
      for (int n = lane; n < nodes; n += 32) visit(i, n);
    }
  } else if (lane < lanes) {
    for (int n = warp; n < nodes; n += kWarps) visit(lane, n);
  }
}

}  // namespace pydet
