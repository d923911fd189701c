// What nms, batched_nms and multiclass_nms share; defined in nms.cpp and, for classes, in nms_segments.cpp.
#pragma once

#include "nms_scratch.h"
#include "torch_utils.h"

namespace pydet {

// Boxes and ranks of one call: boxes as T corners, order[rank] = index of the box with that rank.
template <typename T>
struct RankedBoxes {
  Tensor boxes_memory;  // keeps `boxes` alive
  const Box<T>* boxes;
  std::vector<uint32_t> order;
};

template <typename T>
RankedBoxes<T> rank_boxes(const Tensor& boxes, const Tensor& scores);

// Marks what is kept of the boxes that order lists best first.
template <typename T>
void suppress(const Box<T>* boxes, const uint32_t* order, int64_t n, double threshold, NmsScratch<T>& scratch,
              uint8_t* keep);

// The same inside each class: keys[i] is the class of box i, keep[rank] is for the box order[rank]. On all threads,
// except inside a task of another loop.
template <typename T>
void suppress_by_class(const Box<T>* boxes, const std::vector<uint32_t>& order, const std::vector<int64_t>& keys,
                       double threshold, uint8_t* keep);

// The kept indices, best score first.
Tensor kept_indices(const Tensor& like, const std::vector<uint32_t>& order, const std::vector<uint8_t>& keep);

}  // namespace pydet
