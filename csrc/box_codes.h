// What encode_boxes and decode_boxes share.
#pragma once

#include <algorithm>
#include <vector>

#include "checks/box_codes.h"
#include "math/box.h"
#include "math/box_codes.h"

namespace pydet {

constexpr int64_t kCodesPerTask = 1 << 12;  // about 20 us of work

template <typename T>
struct CodeWeights {
  AxisCode<T> x, y;
};

template <typename T>
CodeWeights<T> code_weights(const std::vector<double>& w) {
  const auto number = [](double v) { return static_cast<T>(v); };
  return {{number(w[0]), number(w[2])}, {number(w[1]), number(w[3])}};
}

// Calls visit(first row, its box, how many) on runs of rows whose boxes lie one after another: row i has box i % boxes.
template <typename Visit>
void for_rows_of_shared_boxes(int64_t rows, int64_t boxes, int64_t codes_a_row, const Visit& visit) {
  torch::stable::parallel_for(0, rows, kCodesPerTask / codes_a_row + 1, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t count = std::min(end - begin, boxes - begin % boxes);
      visit(begin, begin % boxes, count);
      begin += count;
    }
  });
}

}  // namespace pydet
