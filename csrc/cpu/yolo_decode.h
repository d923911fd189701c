// No include guard: compiled once per instruction set, see cpu_levels.h.
#include "cpu/transpose.h"

namespace pydet {
namespace PYDET_LEVEL {

// Class scores of cells whose channels are planes (NCHW): vectors run over cells, then tiles are transposed.
template <typename T, typename In>
void yolo_scores_of_planes(const YoloHead<T>& head, const In* logits, const T* objectness, int64_t count, T* scores) {
  constexpr int64_t kBlock = 16;  // with float, a line of cache of each output row
  T block[kBlock][kYoloTile];
  for (int64_t first = 0; first < head.classes; first += kBlock) {
    const int64_t rows = head.classes - first < kBlock ? head.classes - first : kBlock;
    for (int64_t r = 0; r < rows; ++r) {
      const In* __restrict__ plane = logits + (first + r) * head.channel_stride;
      for (int64_t t = 0; t < count; ++t) block[r][t] = scaled_sigmoid(objectness[t], widen(plane[t]));
    }
    transpose(&block[0][0], kYoloTile, rows, count, scores + first, head.anchors * head.classes);
  }
}

// Class scores of cells whose channels are adjacent (channels last): vectors run over classes.
template <typename T, typename In>
void yolo_scores_of_rows(const YoloHead<T>& head, const In* logits, const T* objectness, int64_t count, T* scores) {
  for (int64_t t = 0; t < count; ++t) {
    const In* __restrict__ in = logits + t * head.cell_stride;
    T* __restrict__ out = scores + t * head.anchors * head.classes;
    const T confidence = objectness[t];
    for (int64_t c = 0; c < head.classes; ++c) out[c] = scaled_sigmoid(confidence, widen(in[c]));
  }
}

// `count` <= kYoloTile cells from `first` on, of one image and one anchor. `image` is the image's first value; the
// outputs are the rows of the first cell with anchor 0.
template <typename T, typename In>
void yolo_decode_tile(const YoloHead<T>& head, int64_t anchor, int64_t first, int64_t count, const In* image, T* boxes,
                      T* objectness, T* scores) {
  const In* channels = image + first * head.cell_stride + anchor * (5 + head.classes) * head.channel_stride;
  T raw[5][kYoloTile], column[kYoloTile], row[kYoloTile], corners[4][kYoloTile], confidence[kYoloTile];
  for (int64_t k = 0; k < 5; ++k) {
    const In* in = channels + k * head.channel_stride;
    for (int64_t t = 0; t < count; ++t) raw[k][t] = widen(in[t * head.cell_stride]);
  }
  int64_t y = first / head.width, x = first % head.width;
  for (int64_t t = 0; t < count; ++t) {
    column[t] = static_cast<T>(x);
    row[t] = static_cast<T>(y);
    if (++x == head.width) x = 0, ++y;
  }
  const YoloAxis<T> horizontal{head.stride_x, head.sizes[2 * anchor]},
      vertical{head.stride_y, head.sizes[2 * anchor + 1]};
  for (int64_t t = 0; t < count; ++t) {
    const Box<T> b = yolo_box(raw[0][t], raw[1][t], raw[2][t], raw[3][t], column[t], row[t], horizontal, vertical);
    corners[0][t] = b.x1;
    corners[1][t] = b.y1;
    corners[2][t] = b.x2;
    corners[3][t] = b.y2;
    confidence[t] = sigmoid(raw[4][t]);
  }
  transpose(&corners[0][0], kYoloTile, 4, count, boxes + anchor * 4, head.anchors * 4);
  for (int64_t t = 0; t < count; ++t) objectness[t * head.anchors + anchor] = confidence[t];
  const In* logits = channels + 5 * head.channel_stride;
  T* first_scores = scores + anchor * head.classes;
  if (head.cell_stride == 1) {
    yolo_scores_of_planes(head, logits, confidence, count, first_scores);
  } else {
    yolo_scores_of_rows(head, logits, confidence, count, first_scores);
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
