// tree_probabilities, its gradient, and tree_predict.
#include <tuple>

#include "tree_tiles.cuh"

namespace pydet {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kPart = 64;  // nodes of a block: 8 values a thread
constexpr unsigned kAll = 0xffffffffu;
constexpr unsigned kNone = ~0u;

template <typename T, typename In>
struct TreeProbabilities {
  const In* conditional;
  const T* absolute;  // read by the gradient only
  T* out;
  const int64_t* parents;
  int64_t nodes;
  TreeTiles tiles;
  Positions<3> p;  // of the first three, in this order
};

// A thread goes up the path of its node: as many loads as the node is deep, of values that its neighbours load as well,
// and nothing waits for a parent to be ready. What has no parent before it is a root.
template <typename T, typename In>
__global__ void __launch_bounds__(kThreads) tree_probabilities_kernel(TreeProbabilities<T, In> s) {
  const TreeTile at = s.tiles.of_block(blockIdx.x);
  const PositionValues<const In> in = values_at(s.conditional, s.p, 0, at.outer, at.inner);
  const PositionValues<T> out = values_at(s.out, s.p, 2, at.outer, at.inner);
  const int part = static_cast<int>(min(s.nodes - at.node, int64_t{kPart}));
  for_each_value<kWarps>(out.node == 1, at.lanes, part, [&](int position, int n) {
    int64_t node = at.node + n, above = s.parents[node];
    T product = static_cast<T>(in.data[position * in.lane + node * in.node]);
    while (above >= 0 && above < node) {
      product *= static_cast<T>(in.data[position * in.lane + above * in.node]);
      node = above;
      above = s.parents[node];
    }
    out.data[position * out.lane + (at.node + n) * out.node] = product;
  });
}

// Of the conditional probabilities; `out` holds the gradients of the absolute ones. A thread takes a position, from the
// last node back: a node's gradient is complete when it is reached, since its children come after it. In this order the
// sums are those of the CPU. Blocks of one warp, so that all multiprocessors get some.
template <typename T, typename In>
__global__ void __launch_bounds__(kTreeLanes) tree_probabilities_backward_kernel(TreeProbabilities<T, In> s) {
  const TreeTile at = s.tiles.of_block(blockIdx.x);
  if (static_cast<int>(threadIdx.x) >= at.lanes) return;
  const int64_t inner = at.inner + threadIdx.x;
  const PositionValues<const In> in = values_at(s.conditional, s.p, 0, at.outer, inner);
  const PositionValues<const T> absolute = values_at(s.absolute, s.p, 1, at.outer, inner);
  const PositionValues<T> out = values_at(s.out, s.p, 2, at.outer, inner);
  for (int64_t n = s.nodes - 1; n > 0; --n) {
    const int64_t parent = s.parents[n];
    if (parent < 0 || parent >= n) continue;
    const T gradient = out.data[n * out.node];
    out.data[parent * out.node] += gradient * static_cast<T>(in.data[n * in.node]);
    out.data[n * out.node] = gradient * absolute.data[parent * absolute.node];
  }
}

// [N] the first child of each node, kNone of a leaf. One block, so that it needs no launch before it to clear them.
__global__ void __launch_bounds__(1024)
    first_children_kernel(const int64_t* parents, int64_t nodes, unsigned* children) {
  for (int64_t n = threadIdx.x; n < nodes; n += 1024) children[n] = kNone;
  __syncthreads();
  for (int64_t n = threadIdx.x; n < nodes; n += 1024) {
    const int64_t parent = parents[n];
    const bool child = parent >= 0 && parent < n;  // else a root, or no tree
    if (child && parents[n - 1] != parent) atomicMin(&children[parent], static_cast<unsigned>(n));
  }
}

template <typename T>
struct BestChild {
  T probability;
  unsigned node;  // kNone: none so far
};

// Of two the more probable one, of equal ones the first.
template <typename T>
__device__ BestChild<T> better(const BestChild<T>& a, const BestChild<T>& b) {
  if (a.node == kNone || b.node == kNone) return a.node == kNone ? b : a;
  if (more_probable(a.probability, b.probability)) return a;
  return more_probable(b.probability, a.probability) || b.node < a.node ? b : a;
}

// A warp walks for one position: its lanes look at the children side by side.
template <typename T, typename In>
__global__ void __launch_bounds__(kThreads)
    tree_predict_kernel(const In* conditional, const int64_t* parents, const unsigned* children, int64_t nodes,
                        Positions<1> p, T threshold, TreeRule rule, int64_t* found, T* probabilities) {
  const int64_t position = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (position >= p.outer * p.inner) return;
  const unsigned lane = threadIdx.x % 32;
  const PositionValues<const In> in = values_at(conditional, p, 0, position / p.inner, position % p.inner);
  TreeWalk<T> walk;
  for (unsigned first = 0; first != kNone; first = children[walk.node]) {
    const int64_t parent = parents[first];
    BestChild<T> best{T(0), kNone};
    for (int64_t n = int64_t{first} + lane;; n += 32) {
      const bool child = n < nodes && parents[n] == parent;
      if (child) {
        const T own = static_cast<T>(in.data[n * in.node]);
        best = better(best, {walk.probability * own, static_cast<unsigned>(n)});
      }
      if (!__all_sync(kAll, child)) break;
    }
    for (int flip = 16; flip > 0; flip /= 2) {
      best = better(best, {__shfl_xor_sync(kAll, best.probability, flip), __shfl_xor_sync(kAll, best.node, flip)});
    }
    if (!walk.enter(best.node, best.probability, threshold, rule)) break;
  }
  if (lane == 0) {
    found[position] = walk.node;
    probabilities[position] = walk.probability;
  }
}

// Blocks of `threads`, each with `part` nodes.
template <typename T, typename In>
void launch_on_tiles(void (*kernel)(TreeProbabilities<T, In>), int threads, int64_t part, const Tensor& conditional,
                     const Tensor& absolute, const Tensor& parents, Tensor& out) {
  const Tensor indices = as_contiguous(parents, ScalarType::Long);
  TreeProbabilities<T, In> s{};
  s.conditional = conditional.const_data_ptr<In>();
  s.absolute = absolute.const_data_ptr<T>();
  s.out = out.mutable_data_ptr<T>();
  s.parents = indices.const_data_ptr<int64_t>();
  s.nodes = indices.size(0);
  s.p = positions_of<3>({&conditional, &absolute, &out});
  s.tiles = tiles_of("tree_probabilities", s.p, s.nodes, static_cast<int>(part));
  launch(kernel, dim3(s.tiles.blocks()), dim3(static_cast<unsigned>(threads)), 0, current_stream(out), s);
}

Tensor tree_probabilities_cuda(const Tensor& conditional,  // [..., N]
                               const Tensor& parents) {    // [N]
  check_tree("tree_probabilities", "conditional", conditional, parents);
  const DeviceGuard guard(conditional.get_device_index());
  Tensor out = new_alike(conditional, wide_dtype(conditional));
  if (out.numel() == 0) return out;
  PYDET_DISPATCH_FLOATING(conditional.scalar_type(), "tree_probabilities", [&] {
    launch_on_tiles(tree_probabilities_kernel<Wide<scalar_t>, scalar_t>, kThreads, kPart, conditional, out, parents,
                    out);
  });
  return out;
}

Tensor tree_probabilities_backward_cuda(const Tensor& grad,         // [..., N]
                                        const Tensor& conditional,  // [..., N]
                                        const Tensor& absolute,     // [..., N]
                                        const Tensor& parents) {    // [N]
  check_tree_probabilities_backward(grad, conditional, absolute, parents);
  const DeviceGuard guard(grad.get_device_index());
  Tensor out = new_alike(absolute, absolute.scalar_type());
  torch::stable::copy_(out, grad);
  if (out.numel() == 0) return out;
  PYDET_DISPATCH_FLOATING(conditional.scalar_type(), "tree_probabilities", [&] {
    launch_on_tiles(tree_probabilities_backward_kernel<Wide<scalar_t>, scalar_t>, kTreeLanes, parents.size(0),
                    conditional, absolute, parents, out);
  });
  return out;
}

std::tuple<Tensor, Tensor> tree_predict_cuda(const Tensor& conditional,  // [..., N]
                                             const Tensor& parents,      // [N]
                                             double threshold, Text rule_name) {
  const TreeRule rule = check_tree_predict(conditional, parents, threshold, rule_name);
  const DeviceGuard guard(conditional.get_device_index());
  const std::vector<int64_t> shape(conditional.sizes().begin(), conditional.sizes().end() - 1);
  Tensor nodes = new_dense(conditional, shape, ScalarType::Long);
  Tensor probabilities = new_dense(conditional, shape, wide_dtype(conditional));
  const int64_t positions = nodes.numel(), blocks = (positions + kWarps - 1) / kWarps;
  PYDET_CHECK(blocks <= INT32_MAX, "tree_predict: conditional must have fewer rows on a GPU, got ",
              shape_of(conditional));
  if (positions == 0) return {nodes, probabilities};
  const Tensor indices = as_contiguous(parents, ScalarType::Long);
  Tensor children = new_dense(indices, {indices.size(0)}, ScalarType::Int);
  unsigned* child_data = reinterpret_cast<unsigned*>(children.mutable_data_ptr<int32_t>());
  const cudaStream_t stream = current_stream(conditional);
  launch(first_children_kernel, dim3(1), dim3(1024), 0, stream, indices.const_data_ptr<int64_t>(), indices.size(0),
         child_data);
  PYDET_DISPATCH_FLOATING(conditional.scalar_type(), "tree_predict", [&] {
    using T = Wide<scalar_t>;
    launch(tree_predict_kernel<T, scalar_t>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
           conditional.const_data_ptr<scalar_t>(), indices.const_data_ptr<int64_t>(), child_data, indices.size(0),
           positions_of<1>({&conditional}), static_cast<T>(threshold), rule, nodes.mutable_data_ptr<int64_t>(),
           probabilities.mutable_data_ptr<T>());
  });
  return {nodes, probabilities};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("tree_probabilities", TORCH_BOX(&tree_probabilities_cuda));
  m.impl("_tree_probabilities_backward", TORCH_BOX(&tree_probabilities_backward_cuda));
  m.impl("tree_predict", TORCH_BOX(&tree_predict_cuda));
}

}  // namespace pydet
