#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "widen.h"
#include "yolo_decode.h"

namespace pydet {
namespace {

constexpr int64_t kYoloBlock = 64;            // cells at a time: their values of some channels stay in the L1 cache
constexpr int64_t kYoloTile = 8 * kYoloBlock;  // cells of a task at most: their logits of one anchor stay in the L2
constexpr int64_t kYoloPlanes = kSoftmaxParts;  // with float, a line of cache of each output row
constexpr int64_t kYoloRows = 16;             // rows of the outputs at a time, where channels are adjacent
constexpr int64_t kValuesPerTask = 1 << 15;   // about 20 us of work

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
YoloHead<T> head_of(const Tensor& inputs, const Tensor& anchors, const std::vector<int64_t>& image_size,
                    bool anchors_in_cells) {
  const int64_t height = inputs.size(2), width = inputs.size(3), count = anchors.size(0);
  YoloHead<T> head{width,
                   height * width,
                   count,
                   inputs.size(1) / count - 5,
                   width > 1 ? inputs.stride(3) : 1,
                   inputs.stride(1),
                   static_cast<T>(static_cast<double>(image_size[1]) / static_cast<double>(width)),
                   static_cast<T>(static_cast<double>(image_size[0]) / static_cast<double>(height)),
                   load_anchors<T>(anchors)};
  for (size_t i = 0; anchors_in_cells && i < head.sizes.size(); i += 2) {
    head.sizes[i] *= head.stride_x;
    head.sizes[i + 1] *= head.stride_y;
  }
  return head;
}

template <YoloClasses kClasses, typename T, typename In>
void fill_from_planes(const YoloHead<T>& head, const In* in, int64_t batch, int64_t image_stride, YoloOutputs<T> out) {
  // Small maps in small tiles, so that there are tasks for all threads.
  const int64_t blocks = std::clamp(head.cells / 8 / kYoloBlock, int64_t{1}, kYoloTile / kYoloBlock);
  const int64_t tile = blocks * kYoloBlock, tiles = (head.cells + tile - 1) / tile;
  const int64_t grain = kValuesPerTask / (std::min(tile, head.cells) * (5 + head.classes)) + 1;
  torch::stable::parallel_for(0, batch * tiles * head.anchors, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {  // anchors of a tile follow each other: their rows are interleaved
      const int64_t anchor = task % head.anchors, image = task / head.anchors / tiles;
      const int64_t first = task / head.anchors % tiles * tile;
      const int64_t row = (image * head.cells + first) * head.anchors;
      PYDET_CPU_CALL(yolo_decode_planes<kClasses>, head, anchor, first, std::min(tile, head.cells - first),
                     in + image * image_stride, out.boxes + row * 4, out.objectness + row,
                     out.scores + row * head.classes);
    }
  });
}

template <YoloClasses kClasses, typename T, typename In>
void fill_from_rows(const YoloHead<T>& head, const In* in, int64_t batch, int64_t image_stride, YoloOutputs<T> out) {
  const int64_t tiles = (head.cells + kYoloBlock - 1) / kYoloBlock;
  const int64_t grain = kValuesPerTask / (std::min(kYoloBlock, head.cells) * head.anchors * (5 + head.classes)) + 1;
  torch::stable::parallel_for(0, batch * tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / tiles, first = task % tiles * kYoloBlock;
      const int64_t row = (image * head.cells + first) * head.anchors;
      PYDET_CPU_CALL(yolo_decode_rows<kClasses>, head, first, std::min(kYoloBlock, head.cells - first),
                     in + image * image_stride, out.boxes + row * 4, out.objectness + row,
                     out.scores + row * head.classes);
    }
  });
}

template <YoloClasses kClasses, typename T, typename In>
void yolo_decode_fill(const Tensor& inputs, const YoloHead<T>& head, YoloOutputs<T> out) {
  const In* in = inputs.const_data_ptr<In>();
  if (head.cell_stride == 1) {
    fill_from_planes<kClasses>(head, in, inputs.size(0), inputs.stride(0), out);
  } else {
    fill_from_rows<kClasses>(head, in, inputs.size(0), inputs.stride(0), out);
  }
}

std::tuple<Tensor, Tensor, Tensor> yolo_decode_cpu(const Tensor& inputs,  // [B, A * (5 + C), H, W]
                                                   const Tensor& anchors,  // [A, 2]
                                                   std::vector<int64_t> image_size, Text classes,
                                                   bool anchors_in_cells) {
  const YoloClasses kind = check_yolo_decode(inputs, anchors, image_size, classes);
  const Tensor maps = readable(inputs);
  const int64_t rows = maps.size(2) * maps.size(3) * anchors.size(0);
  const auto out = new_outputs(maps, rows, maps.size(1) / anchors.size(0) - 5);
  PYDET_DISPATCH_FLOATING(maps.scalar_type(), "yolo_decode", [&] {
    using T = Wide<scalar_t>;
    const YoloHead<T> head = head_of<T>(maps, anchors, image_size, anchors_in_cells);
    const YoloOutputs<T> to = data_of<T>(out);
    if (maps.numel() == 0) return;
    if (kind == YoloClasses::sigmoid) yolo_decode_fill<YoloClasses::sigmoid, T, scalar_t>(maps, head, to);
    if (kind == YoloClasses::softmax) yolo_decode_fill<YoloClasses::softmax, T, scalar_t>(maps, head, to);
    if (kind == YoloClasses::logits) yolo_decode_fill<YoloClasses::logits, T, scalar_t>(maps, head, to);
  });
  return out;
}

template <YoloClasses kClasses, typename T, typename In>
void yolo_grid_fill(const Tensor& inputs, const YoloGrid<T>& grid, YoloOutputs<T> out) {
  const In* in = inputs.const_data_ptr<In>();
  const int64_t rows = grid.side * grid.side * grid.num_boxes;
  const int64_t blocks = (rows + kYoloRows - 1) / kYoloRows;
  const int64_t grain = kValuesPerTask / (kYoloRows * (5 + grid.classes)) + 1;
  torch::stable::parallel_for(0, inputs.size(0) * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks, first = task % blocks * kYoloRows, row = image * rows + first;
      PYDET_CPU_CALL(yolo_grid_rows<kClasses>, grid, first, std::min(kYoloRows, rows - first), in + image * grid.values,
                     out.boxes + row * 4, out.objectness + row, out.scores + row * grid.classes);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> yolo_grid_decode_cpu(const Tensor& inputs,  // [B, S * S * (C + 5 * N)]
                                                        int64_t side, int64_t num_boxes,
                                                        std::vector<int64_t> image_size, bool roots, Text classes) {
  const YoloClasses kind = check_yolo_grid_decode(inputs, side, num_boxes, image_size, classes);
  const Tensor dense = torch::stable::contiguous(inputs);
  const int64_t cells = side * side;
  const auto out = new_outputs(inputs, cells * num_boxes, inputs.size(1) / cells - 5 * num_boxes);
  if (inputs.size(0) == 0) return out;
  PYDET_DISPATCH_FLOATING(inputs.scalar_type(), "yolo_grid_decode", [&] {
    using T = Wide<scalar_t>;
    const YoloGrid<T> grid = yolo_grid<T>(side, num_boxes, inputs.size(1), image_size, roots);
    const YoloOutputs<T> to = data_of<T>(out);
    if (kind == YoloClasses::linear) yolo_grid_fill<YoloClasses::linear, T, scalar_t>(dense, grid, to);
    if (kind == YoloClasses::softmax) yolo_grid_fill<YoloClasses::softmax, T, scalar_t>(dense, grid, to);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "yolo_decode(Tensor inputs, Tensor anchors, SymInt[] image_size, str classes='sigmoid', "
      "bool anchors_in_cells=False) -> (Tensor, Tensor, Tensor)");
  m.def(
      "yolo_grid_decode(Tensor inputs, SymInt side, SymInt num_boxes, SymInt[] image_size, bool roots=True, "
      "str classes='linear') -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("yolo_decode", TORCH_BOX(&yolo_decode_cpu));
  m.impl("yolo_grid_decode", TORCH_BOX(&yolo_grid_decode_cpu));
}

}  // namespace pydet
