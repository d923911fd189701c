// Contracts of the operators on a WordTree.
#pragma once

#include "../math/tree.h"
#include "common.h"

namespace pydet {

constexpr int64_t kMaxDims = 8;  // of a tensor that is read as it lies

// The values of `parents` are checked where they are read: on a GPU that would wait for the device.
inline void check_tree(const char* op, const char* name, const Tensor& values, const Tensor& parents) {
  PYDET_CHECK(is_floating(values.scalar_type()), op, ": ", name, " must be a floating tensor, got ", dtype_of(values));
  PYDET_CHECK(is_integral(parents.scalar_type()), op, ": parents must be an integer tensor, got ", dtype_of(parents));
  PYDET_CHECK(parents.dim() == 1 && parents.size(0) <= INT32_MAX, op,
              ": parents must be [N] with N <= 2147483647, got ", shape_of(parents));
  PYDET_CHECK(values.dim() >= 1 && values.size(-1) == parents.size(0), op, ": ", name,
              " must be [..., N] with N = ", parents.size(0), " as in parents, got ", shape_of(values));
  PYDET_CHECK(values.dim() <= kMaxDims, op, ": ", name, " must have at most ", kMaxDims, " dimensions, got ",
              shape_of(values));
  check_same_device(op, name, values, "parents", parents);
}

inline void check_tree_softmax(const Tensor& logits, const Tensor& parents) {
  check_tree("tree_softmax", "logits", logits, parents);
}

inline void check_tree_softmax_backward(const Tensor& grad, const Tensor& probabilities, const Tensor& parents) {
  check_tree("tree_softmax", "probabilities", probabilities, parents);
  check_gradient("tree_softmax", grad, shape_vector(probabilities), "probabilities", probabilities);
}

inline void check_tree_probabilities_backward(const Tensor& grad, const Tensor& conditional, const Tensor& absolute,
                                              const Tensor& parents) {
  const char* op = "tree_probabilities";
  check_tree(op, "conditional", conditional, parents);
  PYDET_CHECK(absolute.scalar_type() == wide_dtype(conditional) && shape_of(absolute) == shape_of(conditional), op,
              ": absolute must be the result, got ", dtype_of(absolute), " ", shape_of(absolute));
  check_same_device(op, "conditional", conditional, "absolute", absolute);
  check_gradient(op, grad, shape_vector(absolute), "absolute", absolute);
}

inline TreeRule check_tree_predict(const Tensor& conditional, const Tensor& parents, double threshold,
                                   const std::string& rule) {
  const char* op = "tree_predict";
  check_tree(op, "conditional", conditional, parents);
  PYDET_CHECK(parents.size(0) >= 1, op, ": parents must be [N] with N >= 1, got [0]");
  PYDET_CHECK(threshold == threshold, op, ": threshold must be a number, got nan");
  if (rule == "absolute") return TreeRule::absolute;
  PYDET_CHECK(rule == "darknet", op, ": rule must be 'absolute' or 'darknet', got '", rule, "'");
  return TreeRule::darknet;
}

}  // namespace pydet
