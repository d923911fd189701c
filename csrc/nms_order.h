// Boxes by decreasing score: NaN first, -0 equal to 0, equal scores in the order of the input, as torch's stable sort.
#pragma once

#include <cstdint>
#include <vector>

namespace pydet {

// order[rank] = index of the score with that rank.
void order_by_score(const float* scores, int64_t n, uint32_t* order);
void order_by_score(const double* scores, int64_t n, uint32_t* order);

// The same order, but only its first entries: `count` of them or more (all where there are not so many). Without
// sorting the others.
std::vector<uint32_t> best_by_score(const float* scores, int64_t n, int64_t count);
std::vector<uint32_t> best_by_score(const double* scores, int64_t n, int64_t count);

}  // namespace pydet
