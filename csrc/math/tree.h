// WordTree (YOLO9000, section 4): one softmax for each group of siblings, and the walk from the root to a class.
#pragma once

#include "scalar.h"

namespace pydet {

// A term of the softmax of a group whose largest logit is `largest`: in (0, 1], NaN where that is infinite.
template <bool kFused, typename T>
PYDET_HD T softmax_term(T logit, T largest) {
  return exp_of_negative<kFused>(logit - largest);
}

// Gradient of a logit from that of its probability; `mean` is the sum of probability * gradient over the group.
template <typename T>
PYDET_HD T softmax_gradient(T probability, T gradient, T mean) {
  return probability * (gradient - mean);
}

enum class TreeRule : int { absolute, darknet };

// Whether a child of this absolute probability is more probable than the best one before it; NaN is less than anything.
template <typename T>
PYDET_HD bool more_probable(T probability, T best) {
  return probability > best || (best != best && probability == probability);
}

template <typename T>
struct TreeWalk {
  T probability = T(1);  // of `node`: the product of the conditional ones from the root on
  T confidence = T(1);   // what is compared with the threshold
  int64_t node = -1;

  // Goes on to the most probable child if it may, and says whether it has. At the root there is no other answer.
  PYDET_HD bool enter(int64_t child, T child_probability, T threshold, TreeRule rule) {
    // Darknet multiplies probabilities that are products already.
    const T next = rule == TreeRule::darknet ? confidence * child_probability : child_probability;
    const bool confident = next > threshold;
    if (confident || node < 0) {
      node = child;
      probability = child_probability;
      confidence = next;
    }
    return confident;
  }
};

}  // namespace pydet
