// tree_softmax and its gradient in one launch each. A block brings some nodes of 32 positions into shared memory; there
// each warp takes whole groups of siblings, a position a lane, so that no lane waits for another one's longer group;
// and the tile goes back. Loads and stores follow the layout: along the nodes of rows, along the positions of a map.
#include <limits>

#include "tree_tiles.cuh"

namespace pydet {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;

// 33 KiB a block, so that several share a multiprocessor and some load while others compute.
template <typename T, int kInputs>
constexpr int kTileNodes = 1024 / (kInputs * static_cast<int>(sizeof(T)));
// How many; asked for as many of float64, ptxas spills.
template <typename T>
constexpr int kResident = sizeof(T) == sizeof(double) ? 2 : 4;

// One column more, so that both a row and a column lie in 32 different banks.
template <typename T, int kNodes>
using Tile = T[kNodes][kTreeLanes + 1];

// Where groups begin among the nodes from `first` on, and the end of the tree as if one began there.
template <int kNodes>
struct Heads {
  unsigned words[kNodes / 32];

  __device__ void find(const int64_t* parents, int64_t count, int64_t first) {
    if (threadIdx.x >= kNodes) return;  // whole warps
    const int64_t n = first + threadIdx.x;
    const bool head = n == 0 || n == count || (n < count && parents[n] != parents[n - 1]);
    const unsigned word = __ballot_sync(kAll, head);
    if (threadIdx.x % 32 == 0) words[threadIdx.x / 32] = word;
  }

  // The first one from `from` on and before `end`, or `end`. Both are counted from `first`.
  __device__ int next(int from, int end) const {
    for (int i = from; i < end; i = (i / 32 + 1) * 32) {
      const unsigned rest = words[i / 32] >> i % 32;
      if (rest != 0) return min(i + __ffs(static_cast<int>(rest)) - 1, end);
    }
    return end;
  }

  // The last one before `end`; there is one.
  __device__ int last(int end) const {
    int at = end - 1;
    while ((words[at / 32] >> at % 32 & 1u) == 0) --at;
    return at;
  }
};

// The end of the group of node from - 1, by a whole warp.
__device__ int64_t end_of_group(const int64_t* parents, int64_t count, int64_t from) {
  const int64_t parent = parents[from - 1];
  for (int64_t first = from;; first += 32) {
    const int64_t n = first + threadIdx.x % 32;
    const unsigned others = __ballot_sync(kAll, n >= count || parents[n] != parent);
    if (others != 0) return first + __ffs(static_cast<int>(others)) - 1;
  }
}

// One group of one position, value(i, n) of input i and node n. kInPlace: put(n, x) changes the last of the inputs.
template <int kInputs, bool kInPlace, typename T, typename Value, typename Put>
__device__ void softmax_of_group(int64_t nodes, const Value& value, const Put& put) {
  if constexpr (kInputs == 1) {
    T largest = -std::numeric_limits<T>::infinity(), total = T(0);
    for (int64_t n = 0; n < nodes; ++n) largest = maximum(value(0, n), largest);
    for (int64_t n = 0; n < nodes; ++n) {
      const T term = softmax_term<true>(value(0, n), largest);
      total += term;
      if (kInPlace) put(n, term);
    }
    const T scale = T(1) / total;
    for (int64_t n = 0; n < nodes; ++n) {
      put(n, (kInPlace ? value(0, n) : softmax_term<true>(value(0, n), largest)) * scale);
    }
  } else {
    T mean = T(0);
    for (int64_t n = 0; n < nodes; ++n) mean += value(0, n) * value(1, n);
    for (int64_t n = 0; n < nodes; ++n) put(n, softmax_gradient(value(0, n), value(1, n), mean));
  }
}

// Inputs: logits, or probabilities and the gradients of these. The last tensor of `p` is the output.
template <int kInputs, typename T, typename In>
struct TreeSoftmax {
  const In* inputs[kInputs];
  In* out;
  const int64_t* parents;
  int64_t nodes;
  TreeTiles tiles;
  Positions<kInputs + 1> p;
};

template <int kInputs, typename T, typename In>
__global__ void __launch_bounds__(kThreads, kResident<T>) tree_softmax_kernel(TreeSoftmax<kInputs, T, In> s) {
  constexpr int kNodes = kTileNodes<T, kInputs>, kOwn = kNodes / 2;  // groups that begin in the first half are ours
  __shared__ Tile<T, kNodes> tiles[kInputs];
  __shared__ Heads<kNodes> heads;
  const TreeTile at = s.tiles.of_block(blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);

  heads.find(s.parents, s.nodes, at.node);
  __syncthreads();
  const int own = static_cast<int>(min(s.nodes - at.node, int64_t{kOwn})), first = heads.next(0, own);
  if (first == own) return;  // the whole block: its nodes belong to a group of an earlier one
  const int last = heads.last(own), behind = heads.next(last + 1, kNodes);
  const bool fits = behind < kNodes;  // the last group; where it does not it is worked on where it lies
  const int end = fits ? behind : last;

  PositionValues<const In> in[kInputs];
  for (int i = 0; i < kInputs; ++i) in[i] = values_at(s.inputs[i], s.p, i, at.outer, at.inner, at.node + first);
  const PositionValues<In> out = values_at(s.out, s.p, kInputs, at.outer, at.inner, at.node + first);
  for (int i = 0; i < kInputs; ++i) {
    for_each_value<kWarps>(in[i].node == 1, at.lanes, end - first, [&](int position, int n) {
      tiles[i][n][position] = static_cast<T>(in[i].data[position * in[i].lane + n * in[i].node]);
    });
  }
  __syncthreads();
  if (!fits && warp == kWarps - 1) {
    const int64_t size = end_of_group(s.parents, s.nodes, at.node + kNodes) - (at.node + last);
    if (lane < at.lanes) {
      const int64_t skip = last - first;
      softmax_of_group<kInputs, false, T>(
          size,
          [&](int i, int64_t n) { return static_cast<T>(in[i].data[lane * in[i].lane + (skip + n) * in[i].node]); },
          [&](int64_t n, T x) { out.data[lane * out.lane + (skip + n) * out.node] = static_cast<In>(x); });
    }
  }
  for (int group = first, turn = 0; group < end; ++turn) {
    const int next = heads.next(group + 1, end);
    if (turn % kWarps == warp) {
      softmax_of_group<kInputs, true, T>(
          next - group, [&](int i, int64_t n) { return tiles[i][group - first + n][lane]; },
          [&](int64_t n, T x) { tiles[kInputs - 1][group - first + n][lane] = x; });
    }
    group = next;
  }
  __syncthreads();
  for_each_value<kWarps>(out.node == 1, at.lanes, end - first, [&](int position, int n) {
    out.data[position * out.lane + n * out.node] = static_cast<In>(tiles[kInputs - 1][n][position]);
  });
}

template <int kInputs, typename T, typename In>
void tree_softmax_launch(const std::array<const Tensor*, kInputs + 1>& tensors, const Tensor& parents, Tensor& out) {
  TreeSoftmax<kInputs, T, In> s{};
  for (int i = 0; i < kInputs; ++i) s.inputs[i] = tensors[i]->template const_data_ptr<In>();
  s.out = out.mutable_data_ptr<In>();
  s.parents = parents.const_data_ptr<int64_t>();
  s.nodes = parents.size(0);
  s.p = positions_of<kInputs + 1>(tensors);
  s.tiles = tiles_of("tree_softmax", s.p, s.nodes, kTileNodes<T, kInputs> / 2);
  launch(tree_softmax_kernel<kInputs, T, In>, dim3(s.tiles.blocks()), dim3(kThreads), 0, current_stream(out), s);
}

Tensor tree_softmax_cuda(const Tensor& logits,  // [..., N]
                         const Tensor& parents) {  // [N]
  check_tree_softmax(logits, parents);
  const DeviceGuard guard(logits.get_device_index());
  Tensor out = new_alike(logits, logits.scalar_type());
  if (out.numel() == 0) return out;
  const Tensor indices = as_contiguous(parents, ScalarType::Long);
  PYDET_DISPATCH_FLOATING(logits.scalar_type(), "tree_softmax", [&] {
    using T = Wide<scalar_t>;
    tree_softmax_launch<1, T, scalar_t>({&logits, &out}, indices, out);
  });
  return out;
}

Tensor tree_softmax_backward_cuda(const Tensor& grad,  // [..., N]
                                  const Tensor& probabilities,  // [..., N]
                                  const Tensor& parents) {  // [N]
  check_tree_softmax_backward(grad, probabilities, parents);
  const DeviceGuard guard(grad.get_device_index());
  Tensor out = new_alike(probabilities, probabilities.scalar_type());
  if (out.numel() == 0) return out;
  const Tensor indices = as_contiguous(parents, ScalarType::Long);
  const Tensor gradients = grad.scalar_type() == out.scalar_type() ? grad : torch::stable::to(grad, out.scalar_type());
  PYDET_DISPATCH_FLOATING(out.scalar_type(), "tree_softmax", [&] {
    using T = Wide<scalar_t>;
    tree_softmax_launch<2, T, scalar_t>({&probabilities, &gradients, &out}, indices, out);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("tree_softmax", TORCH_BOX(&tree_softmax_cuda));
  m.impl("_tree_softmax_backward", TORCH_BOX(&tree_softmax_backward_cuda));
}

}  // namespace pydet
