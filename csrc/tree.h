// A WordTree as the CPU operators use it, its values checked.
#pragma once

#include <vector>

#include "checks/tree.h"

namespace pydet {

struct Tree {
  Tensor tensor;
  const int64_t* parents;            // [N], -1 for a root
  int64_t nodes;
  std::vector<int64_t> groups;       // [G + 1] the first node of each group of siblings, and N
  std::vector<int64_t> first_child;  // [N + 1] of node - 1, or -1; that of "node -1" is the first root
};

// Siblings are a run of equal parents: no other tensor is needed, and none can contradict it.
inline Tree load_tree(const char* op, const Tensor& tensor) {
  Tree tree{as_contiguous(tensor, ScalarType::Long), nullptr, tensor.size(0), {}, {}};
  tree.parents = tree.tensor.const_data_ptr<int64_t>();
  const int64_t* parents = tree.parents;
  tree.groups.resize(tree.nodes + 1);
  int64_t count = 0, before = -2;
  bool ordered = true;
  for (int64_t i = 0; i < tree.nodes; ++i) {
    tree.groups[count] = i;
    count += parents[i] != before;
    before = parents[i];
    ordered &= (before >= -1) & (before < i);
  }
  for (int64_t i = 0; !ordered && i < tree.nodes; ++i) {
    PYDET_CHECK(parents[i] >= -1 && parents[i] < i, op,
                ": parents must be -1 for a root, else a node before its child, got ", parents[i], " at node ", i);
  }
  tree.groups[count] = tree.nodes;
  tree.groups.resize(count + 1);
  tree.first_child.assign(tree.nodes + 1, -1);
  for (int64_t g = 0; g < count; ++g) {
    const int64_t first = tree.groups[g], parent = parents[first];
    PYDET_CHECK(tree.first_child[parent + 1] < 0, op, ": parents must have siblings side by side, got ", parent,
                " at node ", first, " and apart from it at node ", tree.first_child[parent + 1]);
    tree.first_child[parent + 1] = first;
  }
  return tree;
}

}  // namespace pydet
