// No include guard: compiled once per instruction set, see cpu_levels.h.
//
// Groups are far shorter than vectors, so vectors run over positions: a tile is [nodes][kLanes].
#include "cpu/transpose.h"

namespace pydet {
namespace PYDET_LEVEL {

// The values behind a row are wanted next; there the machine's own prefetcher is late, since it follows few streams.
template <typename In>
void prefetch_rows(const In* data, int64_t lane, int64_t lanes, int64_t nodes) {
  for (int64_t i = 0; i < lanes; ++i) {
    for (int64_t n = nodes; n < 2 * nodes; n += kCacheLine / sizeof(In)) __builtin_prefetch(data + i * lane + n);
  }
}

// The tile of `lanes` positions; `rows` has room for as much again. Lanes beyond them stay what they were.
template <typename T, typename In>
void load_tile(const PositionValues<const In>& in, int64_t nodes, int64_t lanes, T* __restrict__ tile,
               T* __restrict__ rows) {
  if (in.lane == 1) {
    for (int64_t n = 0; n < nodes; ++n) {
      const In* __restrict__ from = in.data + n * in.node;
      __builtin_prefetch(from + kPrefetchTiles * kLanes);
      if (lanes == kLanes) {
        for (int64_t i = 0; i < kLanes; ++i) tile[n * kLanes + i] = widen(from[i]);
      } else {
        for (int64_t i = 0; i < lanes; ++i) tile[n * kLanes + i] = widen(from[i]);
      }
    }
    return;
  }
  if (in.node == 1) prefetch_rows(in.data, in.lane, lanes, nodes);
  if constexpr (std::is_same_v<T, In>) {
    if (in.node == 1) return transpose(in.data, in.lane, lanes, nodes, tile, kLanes);
  }
  for (int64_t i = 0; i < lanes; ++i) {
    const In* __restrict__ from = in.data + i * in.lane;
    for (int64_t n = 0; n < nodes; ++n) rows[i * nodes + n] = widen(from[n * in.node]);
  }
  transpose(rows, nodes, lanes, nodes, tile, kLanes);
}

template <typename T, typename In>
void store_tile(const T* __restrict__ tile, int64_t nodes, int64_t lanes, const PositionValues<In>& out,
                T* __restrict__ rows) {
  if (out.lane == 1) {
    for (int64_t n = 0; n < nodes; ++n) {
      In* __restrict__ to = out.data + n * out.node;
      __builtin_prefetch(to + kPrefetchTiles * kLanes, 1);
      if (lanes == kLanes) {
        for (int64_t i = 0; i < kLanes; ++i) to[i] = static_cast<In>(tile[n * kLanes + i]);
      } else {
        for (int64_t i = 0; i < lanes; ++i) to[i] = static_cast<In>(tile[n * kLanes + i]);
      }
    }
    return;
  }
  if (out.node == 1) prefetch_rows(out.data, out.lane, lanes, nodes);
  if constexpr (std::is_same_v<T, In>) {
    if (out.node == 1) return transpose(tile, kLanes, nodes, lanes, out.data, out.lane);
  }
  transpose(tile, kLanes, nodes, lanes, rows, nodes);
  for (int64_t i = 0; i < lanes; ++i) {
    In* __restrict__ to = out.data + i * out.lane;
    for (int64_t n = 0; n < nodes; ++n) to[n * out.node] = static_cast<In>(rows[i * nodes + n]);
  }
}

template <typename T>
void softmax_of_group(T* __restrict__ tile, int64_t nodes) {
  T largest[kLanes], total[kLanes] = {}, scale[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) largest[i] = -std::numeric_limits<T>::infinity();
  for (int64_t n = 0; n < nodes; ++n) {
#pragma GCC unroll 1  // gcc would unroll the maxima before it vectorises, and then cannot
    for (int64_t i = 0; i < kLanes; ++i) largest[i] = maximum(tile[n * kLanes + i], largest[i]);
  }
  for (int64_t n = 0; n < nodes; ++n) {
    for (int64_t i = 0; i < kLanes; ++i) {
      const T term = softmax_term<PYDET_LEVEL_IS_FUSED>(tile[n * kLanes + i], largest[i]);
      tile[n * kLanes + i] = term;
      total[i] += term;
    }
  }
  for (int64_t i = 0; i < kLanes; ++i) scale[i] = T(1) / total[i];
  for (int64_t n = 0; n < nodes; ++n) {
    for (int64_t i = 0; i < kLanes; ++i) tile[n * kLanes + i] *= scale[i];
  }
}

// `gradients` become those of the logits.
template <typename T>
void softmax_gradient_of_group(const T* __restrict__ probabilities, T* __restrict__ gradients, int64_t nodes) {
  T mean[kLanes] = {};
  for (int64_t n = 0; n < nodes; ++n) {
    for (int64_t i = 0; i < kLanes; ++i) mean[i] += probabilities[n * kLanes + i] * gradients[n * kLanes + i];
  }
  for (int64_t n = 0; n < nodes; ++n) {
    for (int64_t i = 0; i < kLanes; ++i) {
      const int64_t at = n * kLanes + i;
      gradients[at] = softmax_gradient(probabilities[at], gradients[at], mean[i]);
    }
  }
}

// Groups first[0 .. count) of `lanes` positions; `scratch` has room for two tiles of their nodes.
template <typename T, typename In>
void tree_softmax_tile(const PositionValues<const In>& logits, const int64_t* first, int64_t count, int64_t lanes,
                       T* scratch, const PositionValues<In>& out) {
  const int64_t nodes = first[count] - first[0];
  T* rows = scratch + nodes * kLanes;
  load_tile(logits, nodes, lanes, scratch, rows);
  for (int64_t g = 0; g < count; ++g) {
    softmax_of_group(scratch + (first[g] - first[0]) * kLanes, first[g + 1] - first[g]);
  }
  store_tile(scratch, nodes, lanes, out, rows);
}

// The same for gradients; `scratch` has room for three tiles.
template <typename T, typename In>
void tree_softmax_backward_tile(const PositionValues<const In>& probabilities,
                                const PositionValues<const In>& gradients, const int64_t* first, int64_t count,
                                int64_t lanes, T* scratch, const PositionValues<In>& out) {
  const int64_t nodes = first[count] - first[0];
  T* own = scratch + nodes * kLanes;
  T* rows = own + nodes * kLanes;
  load_tile(probabilities, nodes, lanes, own, rows);
  load_tile(gradients, nodes, lanes, scratch, rows);
  for (int64_t g = 0; g < count; ++g) {
    const int64_t at = (first[g] - first[0]) * kLanes;
    softmax_gradient_of_group(own + at, scratch + at, first[g + 1] - first[g]);
  }
  store_tile(scratch, nodes, lanes, out, rows);
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
