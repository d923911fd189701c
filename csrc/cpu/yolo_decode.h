// No include guard: compiled once per instruction set, see cpu_levels.h.
#include "cpu/transpose.h"

namespace pydet {
namespace PYDET_LEVEL {

// Boxes and objectness of `count` <= kYoloBlock cells of one anchor from cell `first` on. `channels` are those of the
// first cell and the anchor; the outputs are the rows of the first cell with anchor 0.
template <typename T, typename In>
void yolo_boxes(const YoloHead<T>& head, int64_t anchor, int64_t first, int64_t count, const In* channels, T* boxes,
                T* objectness, T* __restrict__ confidence) {
  T raw[5][kYoloBlock], column[kYoloBlock], row[kYoloBlock], corners[4][kYoloBlock];
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
  transpose(&corners[0][0], kYoloBlock, 4, count, boxes + anchor * 4, head.anchors * 4);
  for (int64_t t = 0; t < count; ++t) objectness[t * head.anchors + anchor] = confidence[t];
}

template <typename T>
PYDET_HD void prefetch(const T* data, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(data + i);
  __builtin_prefetch(data + count - 1);  // it may lie in a line more
}

// A loop whose length is known is unrolled: vectors of 64 cells are few.
#define PYDET_KNOWN(function, count, ...) \
  ((count) == kYoloBlock ? function(__VA_ARGS__, kYoloBlock) : function(__VA_ARGS__, (count)))

template <YoloClasses kClasses, typename T, typename In>
PYDET_HD void yolo_scores(const In* __restrict__ plane, const T* __restrict__ confidence, T* __restrict__ out,
                          int64_t count) {
  for (int64_t t = 0; t < count; ++t) out[t] = yolo_score<kClasses>(confidence[t], static_cast<T>(widen(plane[t])));
}

// Class scores of cells whose channels are planes (NCHW): vectors run over cells, then blocks are transposed. A plane
// is read to the tile's end before the next ones, so that the memory sees few, long streams.
template <YoloClasses kClasses, typename T, typename In>
void yolo_scores_of_planes(const YoloHead<T>& head, const In* logits, const T* confidence, int64_t count, T* scores) {
  const int64_t stride = head.anchors * head.classes;
  T block[kYoloPlanes][kYoloBlock];
  for (int64_t first = 0; first < head.classes; first += kYoloPlanes) {
    const int64_t planes = std::min(kYoloPlanes, head.classes - first);
    for (int64_t start = 0; start < count; start += kYoloBlock) {
      const int64_t cells = std::min(kYoloBlock, count - start);
      for (int64_t r = 0; r < planes; ++r) {
        const In* plane = logits + (first + r) * head.channel_stride + start;
        prefetch(plane + kYoloBlock, kYoloBlock);  // planes lie too far apart for the processor to foresee them
        PYDET_KNOWN(yolo_scores<kClasses>, cells, plane, confidence + start, block[r]);
      }
      transpose(&block[0][0], kYoloBlock, planes, cells, scores + start * stride + first, stride);
    }
  }
}

template <typename T, typename In>
PYDET_HD void yolo_exponentials(const In* __restrict__ plane, const T* __restrict__ largest, T* __restrict__ out,
                                T* __restrict__ sum, int64_t count) {
  for (int64_t t = 0; t < count; ++t) {
    const T e = exp_of_negative(static_cast<T>(widen(plane[t])) - largest[t]);
    out[t] = e;
    sum[t] += e;
  }
}

// The same for a softmax: the largest logits of the tile's cells first, which brings the tile into the cache; then
// exponentials, which stand in the output until their sum is known.
template <typename T, typename In>
void yolo_softmax_of_planes(const YoloHead<T>& head, const In* logits, const T* confidence, int64_t count, T* scores) {
  const int64_t stride = head.anchors * head.classes;
  T largest[kYoloTile], block[kYoloPlanes][kYoloBlock];
  std::fill_n(largest, count, -std::numeric_limits<T>::infinity());
  for (int64_t c = 0; c < head.classes; ++c) {
    const In* __restrict__ plane = logits + c * head.channel_stride;
    for (int64_t t = 0; t < count; ++t) largest[t] = maximum(static_cast<T>(widen(plane[t])), largest[t]);
  }
  for (int64_t start = 0; start < count; start += kYoloBlock) {
    const int64_t cells = std::min(kYoloBlock, count - start);
    T sums[kSoftmaxParts][kYoloBlock] = {};
    for (int64_t first = 0; first < head.classes; first += kYoloPlanes) {
      const int64_t planes = std::min(kYoloPlanes, head.classes - first);
      for (int64_t r = 0; r < planes; ++r) {
        const In* plane = logits + (first + r) * head.channel_stride + start;
        PYDET_KNOWN(yolo_exponentials, cells, plane, largest + start, block[r], sums[r]);
      }
      transpose(&block[0][0], kYoloBlock, planes, cells, scores + start * stride + first, stride);
    }
    for (int64_t half = kSoftmaxParts / 2; half > 0; half /= 2) {
      for (int64_t part = 0; part < half; ++part) {
        for (int64_t t = 0; t < cells; ++t) sums[part][t] += sums[part + half][t];
      }
    }
    for (int64_t t = 0; t < cells; ++t) {
      T* __restrict__ out = scores + (start + t) * stride;
      const T factor = confidence[start + t] / sums[0][t];
      for (int64_t c = 0; c < head.classes; ++c) out[c] *= factor;
    }
  }
}

template <typename T, typename In>
PYDET_HD T largest_of_row(const In* __restrict__ in, int64_t classes) {
  T parts[kSoftmaxParts];
  for (T& part : parts) part = -std::numeric_limits<T>::infinity();
  int64_t c = 0;
  for (; c + kSoftmaxParts <= classes; c += kSoftmaxParts) {
#pragma GCC unroll 1  // a vector, not 16 single ones
    for (int i = 0; i < kSoftmaxParts; ++i) parts[i] = maximum(static_cast<T>(widen(in[c + i])), parts[i]);
  }
  for (int i = 0; c + i < classes; ++i) parts[i] = maximum(static_cast<T>(widen(in[c + i])), parts[i]);
  return largest_part(parts);
}

// Writes e^(logit - largest); returns their sum.
template <typename T, typename In>
PYDET_HD T exponentials_of_row(const In* __restrict__ in, T largest, int64_t classes, T* __restrict__ out) {
  T parts[kSoftmaxParts] = {};
  int64_t c = 0;
  for (; c + kSoftmaxParts <= classes; c += kSoftmaxParts) {
    for (int i = 0; i < kSoftmaxParts; ++i) {
      const T e = exp_of_negative(static_cast<T>(widen(in[c + i])) - largest);
      out[c + i] = e;
      parts[i] += e;
    }
  }
  if (c < classes) {  // the last classes among others that add nothing
    T rest[kSoftmaxParts];
    for (T& logit : rest) logit = -std::numeric_limits<T>::infinity();
    for (int64_t i = c; i < classes; ++i) rest[i - c] = widen(in[i]);
    for (int i = 0; i < kSoftmaxParts; ++i) {
      rest[i] = exp_of_negative(rest[i] - largest);
      parts[i] += rest[i];
    }
    std::copy_n(rest, classes - c, out + c);
  }
  return sum_of_parts(parts);
}

// Class scores of `count` <= kYoloRows rows of the outputs whose logits are adjacent: vectors run over classes. A
// softmax takes its steps for all rows, so that they don't wait for each other's sums.
template <YoloClasses kClasses, typename T, typename In>
void yolo_scores_of_rows(const In* const* logits, const T* __restrict__ confidence, int64_t count, int64_t classes,
                         T* __restrict__ scores) {
  if constexpr (kClasses == YoloClasses::softmax) {
    T factor[kYoloRows];
    for (int64_t r = 0; r < count; ++r) factor[r] = largest_of_row<T>(logits[r], classes);
    for (int64_t r = 0; r < count; ++r) {
      factor[r] = confidence[r] / exponentials_of_row(logits[r], factor[r], classes, scores + r * classes);
    }
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < classes; ++c) scores[r * classes + c] *= factor[r];
    }
  } else {
    for (int64_t r = 0; r < count; ++r) {
      const In* __restrict__ in = logits[r];
      T* __restrict__ out = scores + r * classes;
      for (int64_t c = 0; c < classes; ++c) out[c] = yolo_score<kClasses>(confidence[r], static_cast<T>(widen(in[c])));
    }
  }
}

// `count` <= kYoloTile cells from `first` on, of one image and one anchor, whose channels are planes. `image` is the
// image's first value; the outputs are the rows of the first cell with anchor 0.
template <YoloClasses kClasses, typename T, typename In>
void yolo_decode_planes(const YoloHead<T>& head, int64_t anchor, int64_t first, int64_t count, const In* image,
                        T* boxes, T* objectness, T* scores) {
  const In* channels = image + first + anchor * (5 + head.classes) * head.channel_stride;
  T confidence[kYoloTile];
  for (int64_t start = 0; start < count; start += kYoloBlock) {
    yolo_boxes(head, anchor, first + start, std::min(kYoloBlock, count - start), channels + start,
               boxes + start * head.anchors * 4, objectness + start * head.anchors, confidence + start);
  }
  const In* logits = channels + 5 * head.channel_stride;
  if constexpr (kClasses == YoloClasses::softmax) {
    yolo_softmax_of_planes(head, logits, confidence, count, scores + anchor * head.classes);
  } else {
    yolo_scores_of_planes<kClasses>(head, logits, confidence, count, scores + anchor * head.classes);
  }
}

// The same for all anchors of `count` <= kYoloBlock cells whose channels are adjacent (channels last).
template <YoloClasses kClasses, typename T, typename In>
void yolo_decode_rows(const YoloHead<T>& head, int64_t first, int64_t count, const In* image, T* boxes, T* objectness,
                      T* scores) {
  const In* channels = image + first * head.cell_stride;
  T confidence[kYoloBlock];
  for (int64_t anchor = 0; anchor < head.anchors; ++anchor) {
    yolo_boxes(head, anchor, first, count, channels + anchor * (5 + head.classes), boxes, objectness, confidence);
  }
  const int64_t rows = count * head.anchors;
  const In* cell = channels;
  int64_t anchor = 0;
  for (int64_t first_row = 0; first_row < rows; first_row += kYoloRows) {
    const int64_t some = std::min(kYoloRows, rows - first_row);
    const In* logits[kYoloRows];
    for (int64_t r = 0; r < some; ++r) {
      logits[r] = cell + anchor * (5 + head.classes) + 5;
      prefetch(logits[r] + kYoloBlock * head.cell_stride, head.classes);  // those of the next block
      if (++anchor == head.anchors) anchor = 0, cell += head.cell_stride;
    }
    yolo_scores_of_rows<kClasses>(logits, objectness + first_row, some, head.classes,
                                  scores + first_row * head.classes);
  }
}

// `count` <= kYoloRows boxes of YOLO's grid from box `first` of the image on.
template <YoloClasses kClasses, typename T, typename In>
void yolo_grid_rows(const YoloGrid<T>& grid, int64_t first, int64_t count, const In* image, T* boxes, T* objectness,
                    T* scores) {
  const In* logits[kYoloRows];
  for (int64_t r = 0; r < count; ++r) {
    const int64_t box = first + r, cell = box / grid.num_boxes;
    const In* in = image + grid.box_start + 4 * box;
    const Box<T> b =
        yolo_grid_box<T>(widen(in[0]), widen(in[1]), widen(in[2]), widen(in[3]), static_cast<T>(cell % grid.side),
                         static_cast<T>(cell / grid.side), grid.horizontal, grid.vertical, grid.roots);
    boxes[4 * r] = b.x1;
    boxes[4 * r + 1] = b.y1;
    boxes[4 * r + 2] = b.x2;
    boxes[4 * r + 3] = b.y2;
    objectness[r] = widen(image[grid.objectness_start + box]);
    logits[r] = image + cell * grid.classes;
  }
  yolo_scores_of_rows<kClasses>(logits, objectness, count, grid.classes, scores);
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
