// What the decoders of YOLO's heads share: loads and stores, and a softmax in parts.
#pragma once

#include <limits>

#include "../math/yolo_decode.h"
#include "four.cuh"

namespace pydet {

constexpr int kTile = 32;  // a block decodes 32 cells of one anchor, 32 classes at a time
constexpr int kRows = 8;   // threads of a block: 32 x 8

template <typename T, typename In>
__device__ T load(const In* at) {
  return static_cast<T>(*at);
}

template <typename T>
__device__ void store_box(Box<T> b, T* boxes, int64_t row) {
  store_four<T>(boxes, row, {b.x1, b.y1, b.x2, b.y2});
}

// The parts of one cell, which lie in a column.
template <typename T>
struct Parts {
  T values[kSoftmaxParts];

  template <int kColumns>
  __device__ Parts(const T (*parts)[kColumns], int column) {
    for (int i = 0; i < kSoftmaxParts; ++i) values[i] = parts[i][column];
  }
};

// The score of one class, given what all classes of the cell share: objectness / sum of exponentials, largest logit.
template <typename T>
__device__ T softmax_score(T factor, T largest, T logit) {
  return exp_of_negative(logit - largest) * factor;
}

// One part of a softmax: the largest logit, or the sum of exponentials.
template <typename T, typename In>
__device__ T largest_of_part(const In* logits, int part, int64_t classes, int64_t stride) {
  T largest = -std::numeric_limits<T>::infinity();
  for (int64_t c = part; c < classes; c += kSoftmaxParts) largest = maximum(load<T>(logits + c * stride), largest);
  return largest;
}

template <typename T, typename In>
__device__ T sum_of_part(const In* logits, T largest, int part, int64_t classes, int64_t stride) {
  T sum = T(0);
  for (int64_t c = part; c < classes; c += kSoftmaxParts)
    sum += exp_of_negative(load<T>(logits + c * stride) - largest);
  return sum;
}

// Strides are in values, so that NCHW, channels last and crops are read as they lie.
template <typename T>
struct YoloHead {
  int64_t height, width, anchors, classes, image_stride, channel_stride, row_stride, column_stride;
  T stride_x, stride_y;  // pixels of the network's input a cell
  bool anchors_in_cells;
};

// A block's cells take their softmax in three readings of the logits; the second and third find them in a cache.
template <typename T>
struct YoloTile {
  T confidence[kTile], largest[kTile];
  int64_t source[kTile];            // where each cell lies in its plane
  T parts[kSoftmaxParts][kTile];    // of a softmax
  T exchanged[kTile][kTile + 1];    // one more: a column lies in 32 different banks

  template <YoloClasses kClasses>
  __device__ T score(int cell, T logit) const {
    if constexpr (kClasses == YoloClasses::softmax) {
      return softmax_score(confidence[cell], largest[cell], logit);
    } else {
      return yolo_score<kClasses>(confidence[cell], logit);
    }
  }
};

// Largest logit of every cell of the tile, and objectness / sum of exponentials in place of the objectness. Each thread
// takes two parts; its warp reads along the cells of a plane, or two times 16 adjacent channels.
template <typename T, typename In>
__device__ void softmax_of_tile(const YoloHead<T>& head, const In* logits, int count, YoloTile<T>& tile) {
  const int lane = static_cast<int>(threadIdx.x), row = static_cast<int>(threadIdx.y);
  const bool adjacent = head.channel_stride == 1;
  int part[2], cell[2];
  for (int i = 0; i < 2; ++i) {
    part[i] = adjacent ? lane % kSoftmaxParts : row + i * kRows;
    cell[i] = adjacent ? 2 * row + lane / kSoftmaxParts + i * kTile / 2 : lane;
  }
  for (int i = 0; i < 2; ++i) {
    if (cell[i] >= count) continue;
    tile.parts[part[i]][cell[i]] =
        largest_of_part<T>(logits + tile.source[cell[i]], part[i], head.classes, head.channel_stride);
  }
  __syncthreads();
  if (row == 0 && lane < count) tile.largest[lane] = largest_part(Parts<T>(tile.parts, lane).values);
  __syncthreads();
  for (int i = 0; i < 2; ++i) {
    if (cell[i] >= count) continue;
    tile.parts[part[i]][cell[i]] = sum_of_part<T>(logits + tile.source[cell[i]], tile.largest[cell[i]], part[i],
                                                  head.classes, head.channel_stride);
  }
  __syncthreads();
  if (row == 0 && lane < count)
    tile.confidence[lane] = tile.confidence[lane] / sum_of_parts(Parts<T>(tile.parts, lane).values);
  __syncthreads();
}

}  // namespace pydet
