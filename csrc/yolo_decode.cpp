#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "checks/yolo_decode.h"
#include "math/yolo_decode.h"
#include "widen.h"

namespace pydet {
namespace {

constexpr int64_t kYoloTile = 64;  // cells at a time: their scores of one anchor stay in the L1 cache
constexpr int64_t kValuesPerTask = 1 << 15;  // about 20 us of work

// One head: its cells are `cell_stride` values apart, its channels `channel_stride`; one of the two is 1.
template <typename T>
struct YoloHead {
  int64_t width, cells, anchors, classes, cell_stride, channel_stride;
  T stride_x, stride_y;  // pixels of the network's input a cell
  std::vector<T> sizes;  // [A, 2] width, height of the anchors in pixels
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/yolo_decode.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

template <typename T>
std::vector<T> load_anchors(const Tensor& anchors) {
  const Tensor dense = as_contiguous(anchors, ScalarType::Double);
  const double* data = dense.const_data_ptr<double>();
  for (int64_t i = 0; i < dense.numel(); ++i) {
    PYDET_CHECK(data[i] > 0 && std::isfinite(data[i]), "yolo_decode: anchors must be positive and finite, got ",
                data[i], " at [", i / 2, ", ", i % 2, "]");
  }
  return std::vector<T>(data, data + dense.numel());
}

// NCHW and channels last are read as they lie; anything else is copied to NCHW.
Tensor readable(const Tensor& inputs) {
  const int64_t height = inputs.size(2), width = inputs.size(3);
  const bool one_stride = height == 1 || inputs.stride(2) == width * inputs.stride(3);
  const bool planes = inputs.stride(3) == 1, rows = inputs.stride(1) == 1;
  return one_stride && width > 1 && (planes || rows) ? inputs : torch::stable::contiguous(inputs);
}

template <typename T>
YoloHead<T> head_of(const Tensor& inputs, const Tensor& anchors, const std::vector<int64_t>& image_size) {
  const int64_t height = inputs.size(2), width = inputs.size(3), count = anchors.size(0);
  return {width,
          height * width,
          count,
          inputs.size(1) / count - 5,
          width > 1 ? inputs.stride(3) : 1,
          inputs.stride(1),
          static_cast<T>(static_cast<double>(image_size[1]) / static_cast<double>(width)),
          static_cast<T>(static_cast<double>(image_size[0]) / static_cast<double>(height)),
          load_anchors<T>(anchors)};
}

template <typename T, typename In>
void yolo_decode_fill(const Tensor& inputs, const YoloHead<T>& head, Tensor& boxes, Tensor& objectness,
                      Tensor& scores) {
  const In* in = inputs.const_data_ptr<In>();
  T* box_data = boxes.mutable_data_ptr<T>();
  T* objectness_data = objectness.mutable_data_ptr<T>();
  T* score_data = scores.mutable_data_ptr<T>();
  const int64_t image_stride = inputs.stride(0);
  const int64_t tiles = (head.cells + kYoloTile - 1) / kYoloTile;
  const int64_t grain = kValuesPerTask / (std::min(kYoloTile, head.cells) * (5 + head.classes)) + 1;
  torch::stable::parallel_for(0, inputs.size(0) * tiles * head.anchors, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {  // anchors of a tile follow each other: their rows are interleaved
      const int64_t anchor = task % head.anchors, tile = task / head.anchors % tiles,
                    image = task / head.anchors / tiles;
      const int64_t first = tile * kYoloTile, count = std::min(kYoloTile, head.cells - first);
      const int64_t row = (image * head.cells + first) * head.anchors;
      PYDET_CPU_CALL(yolo_decode_tile, head, anchor, first, count, in + image * image_stride, box_data + row * 4,
                     objectness_data + row, score_data + row * head.classes);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> yolo_decode_cpu(const Tensor& inputs,  // [B, A * (5 + C), H, W]
                                                   const Tensor& anchors,  // [A, 2]
                                                   std::vector<int64_t> image_size) {
  check_yolo_decode(inputs, anchors, image_size);
  const Tensor maps = readable(inputs);
  const int64_t batch = maps.size(0), rows = maps.size(2) * maps.size(3) * anchors.size(0);
  const ScalarType dtype = maps.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor boxes = new_dense(maps, {batch, rows, 4}, dtype);
  Tensor objectness = new_dense(maps, {batch, rows}, dtype);
  Tensor scores = new_dense(maps, {batch, rows, maps.size(1) / anchors.size(0) - 5}, dtype);
  PYDET_DISPATCH_FLOATING(maps.scalar_type(), "yolo_decode", [&] {
    using compute_t = decltype(widen(scalar_t()));
    const YoloHead<compute_t> head = head_of<compute_t>(maps, anchors, image_size);
    if (boxes.numel() > 0) yolo_decode_fill<compute_t, scalar_t>(maps, head, boxes, objectness, scores);
  });
  return {boxes, objectness, scores};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("yolo_decode(Tensor inputs, Tensor anchors, SymInt[] image_size) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("yolo_decode", TORCH_BOX(&yolo_decode_cpu)); }

}  // namespace pydet
