// tree_probabilities and tree_predict: what the conditional probabilities of tree_softmax say about whole paths.
#include <algorithm>
#include <tuple>
#include <vector>

#include "positions.h"
#include "tree.h"
#include "widen.h"

#define PYDET_KERNELS "cpu/tree_predict.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kLanes = 64;  // positions of a tile where they lie together: pieces of some cache lines
constexpr int64_t kValuesPerTask = 1 << 15;  // about 20 us of work
constexpr int64_t kWalksPerTask = 64;  // the same, at some hundred nodes a walk

// Calls visit(outer position, first inner position, how many of these) for tiles of positions of `nodes` values.
// Positions that lie together in the output, the last of the tensors, make a tile.
template <int kTensors, typename Visit>
void for_each_tile(const Positions<kTensors>& p, int64_t nodes, const Visit& visit) {
  const int64_t lanes = p.lane[kTensors - 1] == 1 ? kLanes : 1;
  const int64_t tiles = (p.inner + lanes - 1) / lanes;
  const int64_t grain = kValuesPerTask / (lanes * nodes) + 1;
  torch::stable::parallel_for(0, p.outer * tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t inner = task % tiles * lanes;
      visit(task / tiles, inner, std::min(lanes, p.inner - inner));
    }
  });
}

Tensor tree_probabilities_cpu(const Tensor& conditional,  // [..., N]
                              const Tensor& parents) {  // [N]
  check_tree("tree_probabilities", "conditional", conditional, parents);
  const Tree tree = load_tree("tree_probabilities", parents);
  Tensor out = new_alike(conditional, wide_dtype(conditional));  // half precision can't hold that of a deep node
  if (out.numel() == 0) return out;
  const Positions<2> p = positions_of<2>({&conditional, &out});
  PYDET_DISPATCH_FLOATING(conditional.scalar_type(), "tree_probabilities", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* in = conditional.const_data_ptr<scalar_t>();
    T* to = out.mutable_data_ptr<T>();
    for_each_tile(p, tree.nodes, [&](int64_t outer, int64_t inner, int64_t lanes) {
      PYDET_CPU_CALL(tree_probabilities_tile, values_at(in, p, 0, outer, inner), tree.parents, tree.groups[1],
                     tree.nodes, lanes, values_at(to, p, 1, outer, inner));
    });
  });
  return out;
}

// In the dtype of the arithmetic, float or double.
Tensor tree_probabilities_backward_cpu(const Tensor& grad,  // [..., N]
                                       const Tensor& conditional,  // [..., N]
                                       const Tensor& absolute,  // [..., N]
                                       const Tensor& parents) {  // [N]
  check_tree_probabilities_backward(grad, conditional, absolute, parents);
  const Tree tree = load_tree("tree_probabilities", parents);
  Tensor out = new_alike(absolute, absolute.scalar_type());
  torch::stable::copy_(out, grad);
  if (out.numel() == 0) return out;
  const Positions<3> p = positions_of<3>({&conditional, &absolute, &out});
  PYDET_DISPATCH_FLOATING(conditional.scalar_type(), "tree_probabilities", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* own = conditional.const_data_ptr<scalar_t>();
    const T* above = absolute.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    for_each_tile(p, tree.nodes, [&](int64_t outer, int64_t inner, int64_t lanes) {
      PYDET_CPU_CALL(tree_probabilities_backward_tile, values_at(own, p, 0, outer, inner),
                     values_at(above, p, 1, outer, inner), tree.parents, tree.groups[1], tree.nodes, lanes,
                     values_at(to, p, 2, outer, inner));
    });
  });
  return out;
}

// YOLO9000, section 4: from the root to the most probable child, as long as the walk is confident.
template <typename T, typename In>
TreeWalk<T> walk_of(const Tree& tree, const PositionValues<const In>& conditional, T threshold, TreeRule rule) {
  TreeWalk<T> walk;
  for (int64_t first = 0; first >= 0; first = tree.first_child[walk.node + 1]) {
    int64_t best = first;
    T best_probability = walk.probability * widen(conditional.data[first * conditional.node]);
    for (int64_t n = first + 1; n < tree.nodes && tree.parents[n] == walk.node; ++n) {
      const T probability = walk.probability * widen(conditional.data[n * conditional.node]);
      if (!more_probable(probability, best_probability)) continue;
      best = n;
      best_probability = probability;
    }
    if (!walk.enter(best, best_probability, threshold, rule)) break;
  }
  return walk;
}

std::tuple<Tensor, Tensor> tree_predict_cpu(const Tensor& conditional,  // [..., N]
                                            const Tensor& parents,  // [N]
                                            double threshold, Text rule_name) {
  const TreeRule rule = check_tree_predict(conditional, parents, threshold, rule_name);
  const Tree tree = load_tree("tree_predict", parents);
  const std::vector<int64_t> shape(conditional.sizes().begin(), conditional.sizes().end() - 1);
  Tensor nodes = new_dense(conditional, shape, ScalarType::Long);
  Tensor probabilities = new_dense(conditional, shape, wide_dtype(conditional));
  if (nodes.numel() == 0) return {nodes, probabilities};
  const Positions<1> p = positions_of<1>({&conditional});
  PYDET_DISPATCH_FLOATING(conditional.scalar_type(), "tree_predict", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* in = conditional.const_data_ptr<scalar_t>();
    int64_t* node_data = nodes.mutable_data_ptr<int64_t>();
    T* probability_data = probabilities.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, p.outer * p.inner, kWalksPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const TreeWalk<T> walk =
            walk_of(tree, values_at(in, p, 0, i / p.inner, i % p.inner), static_cast<T>(threshold), rule);
        node_data[i] = walk.node;
        probability_data[i] = walk.probability;
      }
    });
  });
  return {nodes, probabilities};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("tree_probabilities(Tensor conditional, Tensor parents) -> Tensor");
  m.def("_tree_probabilities_backward(Tensor grad, Tensor conditional, Tensor absolute, Tensor parents) -> Tensor");
  m.def(
      "tree_predict(Tensor conditional, Tensor parents, float threshold=0.5, str rule='absolute') -> (Tensor, "
      "Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("tree_probabilities", TORCH_BOX(&tree_probabilities_cpu));
  m.impl("_tree_probabilities_backward", TORCH_BOX(&tree_probabilities_backward_cpu));
  m.impl("tree_predict", TORCH_BOX(&tree_predict_cpu));
}

}  // namespace pydet
