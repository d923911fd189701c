// What match_anchors and match_cells share on the CPU: ground truths of a ragged batch, and boxes in blocks.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "math/match_anchors.h"
#include "torch_utils.h"

namespace pydet {

constexpr int64_t kMatchBlock = 256;  // anchors whose running best stays in the L1 cache

template <typename T>
struct Truth {
  Box<T> box;
  T area;
};

template <typename T>
struct AnchorBlock {
  T x1[kMatchBlock], y1[kMatchBlock], x2[kMatchBlock], y2[kMatchBlock], area[kMatchBlock];
  Box<T> around;  // all of them
  bool plain;     // all of them are
};

// Ground truths of one image among those of all.
struct ImageTruths {
  int64_t begin, count;
  bool plain;  // all of them, and of positive area
};

template <typename T>
std::vector<Truth<T>> load_truths(const Tensor& gt_boxes) {
  const Tensor dense = as_contiguous(gt_boxes, kDtype<T>);
  const T* data = dense.const_data_ptr<T>();
  std::vector<Truth<T>> truths(dense.size(0));
  for (size_t i = 0; i < truths.size(); ++i, data += 4) {
    const Box<T> box{data[0], data[1], data[2], data[3]};
    truths[i] = {box, area(box)};
  }
  return truths;
}

inline std::vector<int64_t> load_counts(const char* op, const std::optional<Tensor>& counts, int64_t total) {
  if (!counts) return {total};
  const Tensor dense = as_contiguous(*counts, ScalarType::Long);
  const int64_t* data = dense.const_data_ptr<int64_t>();
  int64_t left = total;
  for (int64_t b = 0; b < dense.size(0); ++b) {
    PYDET_CHECK(data[b] >= 0, op, ": counts must not be negative, got ", data[b], " at ", b);
    PYDET_CHECK(data[b] <= left, op, ": counts must sum to the ", total, " rows of gt_boxes, got more");
    left -= data[b];
  }
  PYDET_CHECK(left == 0, op, ": counts must sum to the ", total, " rows of gt_boxes, got ", total - left);
  return std::vector<int64_t>(data, data + dense.size(0));
}

template <typename T>
std::vector<ImageTruths> by_image(const std::vector<Truth<T>>& truths, const std::vector<int64_t>& counts) {
  std::vector<ImageTruths> images;
  int64_t begin = 0;
  for (const int64_t count : counts) {
    const bool plain = std::all_of(truths.begin() + begin, truths.begin() + begin + count,
                                   [](const Truth<T>& t) { return is_plain(t.box, t.area) && t.area > T(0); });
    images.push_back({begin, count, plain});
    begin += count;
  }
  return images;
}

}  // namespace pydet
