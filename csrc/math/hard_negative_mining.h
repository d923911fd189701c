// Hard negative mining (SSD, section 2.2): how losses are ordered, and how many negatives are taken.
#pragma once

#include "scalar.h"

namespace pydet {

// Unsigned, ascending with the loss as in torch.sort: NaN is the hardest, then inf; -0 equals 0. 0, below every loss,
// stands for a positive.
PYDET_HD uint32_t mining_key(float loss, bool positive) {
  return positive ? 0 : static_cast<uint32_t>(rank_of(loss)) ^ 0x80000000u;
}
PYDET_HD uint64_t mining_key(double loss, bool positive) {
  return positive ? 0 : static_cast<uint64_t>(rank_of(loss)) ^ 0x8000000000000000u;
}

template <typename T>
using MiningKey = decltype(mining_key(T(), false));

// Bits that are looked at together: the sign, the exponent and 2 more of a float come first, and spread losses well.
constexpr int kMiningDigit = 11;

// At most `ratio` negatives for each positive.
PYDET_HD int64_t negatives_wanted(double ratio, int64_t positives, int64_t anchors) {
  const double wanted = ratio * static_cast<double>(positives);
  const int64_t negatives = anchors - positives;
  return wanted < static_cast<double>(negatives) ? static_cast<int64_t>(wanted) : negatives;
}

}  // namespace pydet
