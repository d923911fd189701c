// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// Absolute probabilities of `lanes` positions: a node's is its parent's times its own; parents come first.
template <typename T, typename In>
void tree_probabilities_tile(const PositionValues<const In>& in, const int64_t* parents, int64_t roots, int64_t nodes,
                             int64_t lanes, const PositionValues<T>& out) {
  if (out.lane == 1) {
    for (int64_t n = 0; n < nodes; ++n) {
      const In* from = in.data + n * in.node;
      T* to = out.data + n * out.node;
      const T* parent = out.data + parents[n] * out.node;
      for (int64_t i = 0; n < roots && i < lanes; ++i) to[i] = widen(from[i * in.lane]);
      for (int64_t i = 0; n >= roots && i < lanes; ++i) to[i] = widen(from[i * in.lane]) * parent[i];
    }
    return;
  }
  for (int64_t i = 0; i < lanes; ++i) {
    const In* from = in.data + i * in.lane;
    T* to = out.data + i * out.lane;
    for (int64_t n = 0; n < roots; ++n) to[n * out.node] = widen(from[n * in.node]);
    for (int64_t n = roots; n < nodes; ++n) {
      to[n * out.node] = widen(from[n * in.node]) * to[parents[n] * out.node];
    }
  }
}

// One node's step back: its gradient is complete, since its children come after it. `lanes` positions.
template <typename T, typename In>
void tree_gradient_of_node(const PositionValues<const In>& in, const PositionValues<const T>& absolute, int64_t node,
                           int64_t parent, int64_t lanes, const PositionValues<T>& out) {
  const In* own = in.data + node * in.node;
  const T* above = absolute.data + parent * absolute.node;
  T* gradient = out.data + node * out.node;
  T* to_parent = out.data + parent * out.node;
  for (int64_t i = 0; i < lanes; ++i) {
    to_parent[i * out.lane] += gradient[i * out.lane] * widen(own[i * in.lane]);
    gradient[i * out.lane] *= above[i * absolute.lane];
  }
}

// Gradients of the conditional probabilities; `out` holds those of the absolute ones.
template <typename T, typename In>
void tree_probabilities_backward_tile(const PositionValues<const In>& in, const PositionValues<const T>& absolute,
                                      const int64_t* parents, int64_t roots, int64_t nodes, int64_t lanes,
                                      const PositionValues<T>& out) {
  for (int64_t n = nodes - 1; n >= roots; --n) {
    tree_gradient_of_node(in, absolute, n, parents[n], lanes, out);
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
