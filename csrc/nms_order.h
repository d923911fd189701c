// Boxes by decreasing score: NaN first, -0 equal to 0, equal scores in the order of the input, as torch's stable sort.
#pragma once

#include <cstdint>

namespace pydet {

// order[rank] = index of the score with that rank.
void order_by_score(const float* scores, int64_t n, uint32_t* order);
void order_by_score(const double* scores, int64_t n, uint32_t* order);

}  // namespace pydet
