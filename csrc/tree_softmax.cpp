#include <algorithm>
#include <limits>
#include <vector>

#include "positions.h"
#include "tree.h"
#include "widen.h"

namespace pydet {
namespace {

constexpr int64_t kLanes = 16;              // positions of a tile: a vector of AVX-512, or several shorter ones
constexpr int64_t kChunkNodes = 64;         // nodes of a tile at least, so that it stays in the L1 cache
constexpr int64_t kCacheLine = 64;          // bytes
constexpr int64_t kPrefetchTiles = 4;       // of a plane, ahead
constexpr int64_t kValuesPerTask = 1 << 15;  // about 20 us of work

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/tree_softmax.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

// Groups in chunks of at least kChunkNodes nodes: [C + 1] the first group of each.
std::vector<int64_t> chunks_of(const Tree& tree) {
  std::vector<int64_t> chunks{0};
  const int64_t count = static_cast<int64_t>(tree.groups.size()) - 1;
  for (int64_t g = 1; g < count; ++g) {
    if (tree.groups[g] - tree.groups[chunks.back()] >= kChunkNodes) chunks.push_back(g);
  }
  chunks.push_back(count);
  return chunks;
}

// Calls visit(first group, number of groups, lanes, outer position, inner position, scratch) for all of them. The
// innermost loop is over what lies together in the output, the last of the tensors.
template <typename T, int kTensors, typename Visit>
void for_each_tile(const Tree& tree, const Positions<kTensors>& p, int64_t tiles_of_scratch, const Visit& visit) {
  const std::vector<int64_t> chunks = chunks_of(tree);
  const int64_t chunk_count = static_cast<int64_t>(chunks.size()) - 1;
  const int64_t tile_count = (p.inner + kLanes - 1) / kLanes;
  int64_t largest = 0;
  for (int64_t c = 0; c < chunk_count; ++c) {
    largest = std::max(largest, tree.groups[chunks[c + 1]] - tree.groups[chunks[c]]);
  }
  const bool planes = p.lane[kTensors - 1] == 1;
  const int64_t grain = kValuesPerTask / (std::min(p.inner, kLanes) * kChunkNodes) + 1;
  torch::stable::parallel_for(0, p.outer * tile_count * chunk_count, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(tiles_of_scratch * largest * kLanes);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / (tile_count * chunk_count), rest = task % (tile_count * chunk_count);
      const int64_t tile = planes ? rest % tile_count : rest / chunk_count;
      const int64_t chunk = planes ? rest / tile_count : rest % chunk_count;
      const int64_t position = tile * kLanes;
      visit(chunks[chunk], chunks[chunk + 1] - chunks[chunk], std::min(kLanes, p.inner - position), image, position,
            scratch.data());
    }
  });
}

Tensor tree_softmax_cpu(const Tensor& logits,     // [..., N]
                        const Tensor& parents) {  // [N]
  check_tree_softmax(logits, parents);
  const Tree tree = load_tree("tree_softmax", parents);
  Tensor out = new_alike(logits, logits.scalar_type());
  if (out.numel() == 0) return out;
  const Positions<2> p = positions_of<2>({&logits, &out});
  PYDET_DISPATCH_FLOATING(logits.scalar_type(), "tree_softmax", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* in = logits.const_data_ptr<scalar_t>();
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    for_each_tile<T>(tree, p, 2,
                     [&](int64_t group, int64_t count, int64_t lanes, int64_t image, int64_t position, T* scratch) {
                       const int64_t* first = tree.groups.data() + group;
                       PYDET_CPU_CALL(tree_softmax_tile, values_at(in, p, 0, image, position, *first), first, count,
                                      lanes, scratch, values_at(to, p, 1, image, position, *first));
                     });
  });
  return out;
}

Tensor tree_softmax_backward_cpu(const Tensor& grad,           // [..., N]
                                 const Tensor& probabilities,  // [..., N]
                                 const Tensor& parents) {      // [N]
  check_tree_softmax_backward(grad, probabilities, parents);
  const Tree tree = load_tree("tree_softmax", parents);
  Tensor out = new_alike(probabilities, probabilities.scalar_type());
  if (out.numel() == 0) return out;
  const Tensor gradients = grad.scalar_type() == out.scalar_type() ? grad : torch::stable::to(grad, out.scalar_type());
  const Positions<3> p = positions_of<3>({&probabilities, &gradients, &out});
  PYDET_DISPATCH_FLOATING(out.scalar_type(), "tree_softmax", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* own = probabilities.const_data_ptr<scalar_t>();
    const scalar_t* upstream = gradients.const_data_ptr<scalar_t>();
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    for_each_tile<T>(tree, p, 3,
                     [&](int64_t group, int64_t count, int64_t lanes, int64_t image, int64_t position, T* scratch) {
                       const int64_t* first = tree.groups.data() + group;
                       PYDET_CPU_CALL(tree_softmax_backward_tile, values_at(own, p, 0, image, position, *first),
                                      values_at(upstream, p, 1, image, position, *first), first, count, lanes, scratch,
                                      values_at(to, p, 2, image, position, *first));
                     });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("tree_softmax(Tensor logits, Tensor parents) -> Tensor");
  m.def("_tree_softmax_backward(Tensor grad, Tensor probabilities, Tensor parents) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("tree_softmax", TORCH_BOX(&tree_softmax_cpu));
  m.impl("_tree_softmax_backward", TORCH_BOX(&tree_softmax_backward_cpu));
}

}  // namespace pydet
