#include <algorithm>
#include <tuple>
#include <vector>

#include "../widen.h"
#include "../yolo_decode.h"
#include "yolo_scores.cuh"

namespace pydet {
namespace {

constexpr int kResident = 2;  // blocks of a multiprocessor at least: asked for more, ptxas spills the float64 kernel
constexpr int kGridRows = 16;  // boxes of YOLO's grid a block

template <YoloClasses kClasses, typename T, typename In>
__global__ void __launch_bounds__(kTile* kRows, kResident)
    yolo_decode_kernel(const In* inputs,   // [B, A * (5 + C), H, W]
                       const T* anchors,   // [A, 2]
                       YoloHead<T> head,
                       YoloOutputs<T> out) {  // boxes [B, H * W * A, 4], objectness [B, H * W * A], scores [.., C]
  __shared__ YoloTile<T> tile;
  const int64_t cells = head.height * head.width, tiles = (cells + kTile - 1) / kTile;
  // Blocks, cells of a map and anchors are counted in 32 bits: 64-bit divisions are calls, around which registers are
  // spilled.
  const unsigned in_image = static_cast<unsigned>(tiles * head.anchors),
                 anchors_of_tile = static_cast<unsigned>(head.anchors);
  const int64_t image = blockIdx.x / in_image, anchor = blockIdx.x % anchors_of_tile;
  const int64_t first = static_cast<int64_t>(blockIdx.x % in_image / anchors_of_tile) * kTile;
  const int count = static_cast<int>(cells - first < kTile ? cells - first : kTile);
  const int64_t first_row = (image * cells + first) * head.anchors + anchor;  // of the outputs; cells are A rows apart
  const int lane = static_cast<int>(threadIdx.x), thread_row = static_cast<int>(threadIdx.y);
  const In* channels = inputs + image * head.image_stride + anchor * (5 + head.classes) * head.channel_stride;

  const bool writes_boxes = blockIdx.y == 0;  // the other blocks of this tile have other classes

  if (thread_row < 2 && lane < count) {
    const unsigned cell = static_cast<unsigned>(first) + lane, width = static_cast<unsigned>(head.width);
    const int64_t x = cell % width, y = cell / width;
    const int64_t offset = y * head.row_stride + x * head.column_stride;
    const int64_t row = first_row + lane * head.anchors;
    const In* in = channels + offset;
    if (thread_row == 0) {
      tile.source[lane] = offset;
      tile.confidence[lane] = sigmoid(load<T>(in + 4 * head.channel_stride));
      if (writes_boxes) out.objectness[row] = tile.confidence[lane];
    } else if (writes_boxes) {
      const T scale_x = head.anchors_in_cells ? head.stride_x : T(1);
      const T scale_y = head.anchors_in_cells ? head.stride_y : T(1);
      const Box<T> b = yolo_box(load<T>(in), load<T>(in + head.channel_stride), load<T>(in + 2 * head.channel_stride),
                                load<T>(in + 3 * head.channel_stride), static_cast<T>(x), static_cast<T>(y),
                                YoloAxis<T>{head.stride_x, anchors[2 * anchor] * scale_x},
                                YoloAxis<T>{head.stride_y, anchors[2 * anchor + 1] * scale_y});
      store_box(b, out.boxes, row);
    }
  }
  __syncthreads();

  const In* logits = channels + 5 * head.channel_stride;
  if constexpr (kClasses == YoloClasses::softmax) softmax_of_tile(head, logits, count, tile);
  T* scores = out.scores + first_row * head.classes;
  const int64_t out_stride = head.anchors * head.classes;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kTile;
  for (int64_t first_class = static_cast<int64_t>(blockIdx.y) * kTile; first_class < head.classes;
       first_class += step) {
    const int labels = static_cast<int>(head.classes - first_class < kTile ? head.classes - first_class : kTile);
    if (head.channel_stride == 1) {  // read along the classes, as they are written
      for (int i = thread_row; i < count && lane < labels; i += kRows) {
        const T logit = load<T>(logits + tile.source[i] + first_class + lane);
        scores[i * out_stride + first_class + lane] = tile.template score<kClasses>(i, logit);
      }
      continue;
    }
    for (int i = thread_row; i < labels && lane < count; i += kRows) {  // read along the cells
      const T logit = load<T>(logits + tile.source[lane] + (first_class + i) * head.channel_stride);
      tile.exchanged[i][lane] = tile.template score<kClasses>(lane, logit);
    }
    __syncthreads();
    for (int i = thread_row; i < count && lane < labels; i += kRows) {  // write along the classes
      scores[i * out_stride + first_class + lane] = tile.exchanged[lane][i];
    }
    __syncthreads();
  }
}

// Half a warp a box: its classes are read and written along the lanes, lane i takes part i of a softmax.
template <YoloClasses kClasses, typename T, typename In>
__global__ void __launch_bounds__(kSoftmaxParts* kGridRows)
    yolo_grid_decode_kernel(const In* inputs,  // [B, S * S * (C + 5 * N)]
                            unsigned rows,  // B * S * S * N
                            YoloGrid<T> grid,
                            YoloOutputs<T> out) {  // boxes [B, S * S * N, 4], objectness [B, S * S * N], scores [.., C]
  __shared__ T parts[kSoftmaxParts][kGridRows + 1];
  const int part = static_cast<int>(threadIdx.x), local = static_cast<int>(threadIdx.y);
  const unsigned row = blockIdx.x * kGridRows + threadIdx.y;
  const bool active = row < rows;
  const unsigned num_boxes = static_cast<unsigned>(grid.num_boxes), side = static_cast<unsigned>(grid.side);
  const unsigned in_image = side * side * num_boxes, box = row % in_image, cell = box / num_boxes;
  const In* image = inputs + row / in_image * grid.values;
  const In* logits = image + cell * grid.classes;
  const T objectness = active ? load<T>(image + grid.objectness_start + box) : T(0);
  if (active && part == 0) {
    const In* in = image + grid.box_start + 4 * static_cast<int64_t>(box);
    store_box(yolo_grid_box(load<T>(in), load<T>(in + 1), load<T>(in + 2), load<T>(in + 3), static_cast<T>(cell % side),
                            static_cast<T>(cell / side), grid.horizontal, grid.vertical, grid.roots),
              out.boxes, row);
    out.objectness[row] = objectness;
  }
  T confidence = objectness, largest = T(0);
  if constexpr (kClasses == YoloClasses::softmax) {
    if (active) parts[part][local] = largest_of_part<T>(logits, part, grid.classes, 1);
    __syncthreads();
    if (active) largest = largest_part(Parts<T>(parts, local).values);
    __syncthreads();
    if (active) parts[part][local] = sum_of_part<T>(logits, largest, part, grid.classes, 1);
    __syncthreads();
    if (active) confidence = objectness / sum_of_parts(Parts<T>(parts, local).values);
  }
  for (int64_t c = part; active && c < grid.classes; c += kSoftmaxParts) {
    const T logit = load<T>(logits + c);
    T* to = out.scores + row * grid.classes + c;
    if constexpr (kClasses == YoloClasses::softmax) {
      *to = softmax_score(confidence, largest, logit);
    } else {
      *to = yolo_score<kClasses>(confidence, logit);
    }
  }
}

// Blocks for the classes of one tile: where a small batch has few tiles, the classes are shared out too. A softmax
// needs all of them.
unsigned class_blocks(int64_t tiles, int64_t classes, YoloClasses kind) {
  if (kind == YoloClasses::softmax) return 1;
  const int64_t wanted = 4 * static_cast<int64_t>(multiprocessors()) / tiles, most = (classes + kTile - 1) / kTile;
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(wanted, most)));
}

std::tuple<Tensor, Tensor, Tensor> yolo_decode_cuda(const Tensor& inputs,  // [B, A * (5 + C), H, W]
                                                    const Tensor& anchors,  // [A, 2]
                                                    std::vector<int64_t> image_size, Text classes,
                                                    bool anchors_in_cells) {
  const YoloClasses kind = check_yolo_decode(inputs, anchors, image_size, classes);
  const DeviceGuard guard(inputs.get_device_index());
  const int64_t batch = inputs.size(0), height = inputs.size(2), width = inputs.size(3), count = anchors.size(0);
  const int64_t num_classes = inputs.size(1) / count - 5;
  const auto out = new_outputs(inputs, height * width * count, num_classes);
  const int64_t blocks = batch * count * ((height * width + kTile - 1) / kTile);
  PYDET_CHECK(height * width <= INT32_MAX && blocks <= INT32_MAX,
              "yolo_decode: inputs must have fewer than 2^31 cells, and tiles of 32 cells of an anchor, got ",
              shape_of(inputs));
  if (blocks == 0) return out;
  const Tensor sizes = as_contiguous(anchors, std::get<0>(out).scalar_type());
  const cudaStream_t stream = current_stream(inputs);
  PYDET_DISPATCH_FLOATING(inputs.scalar_type(), "yolo_decode", [&] {
    using T = Wide<scalar_t>;
    const YoloHead<T> head{height,
                           width,
                           count,
                           num_classes,
                           inputs.stride(0),
                           inputs.stride(1),
                           inputs.stride(2),
                           inputs.stride(3),
                           static_cast<T>(static_cast<double>(image_size[1]) / static_cast<double>(width)),
                           static_cast<T>(static_cast<double>(image_size[0]) / static_cast<double>(height)),
                           anchors_in_cells};
    const auto kernel = kind == YoloClasses::sigmoid   ? yolo_decode_kernel<YoloClasses::sigmoid, T, scalar_t>
                        : kind == YoloClasses::softmax ? yolo_decode_kernel<YoloClasses::softmax, T, scalar_t>
                                                       : yolo_decode_kernel<YoloClasses::logits, T, scalar_t>;
    launch(kernel, dim3(static_cast<unsigned>(blocks), class_blocks(blocks, num_classes, kind)), dim3(kTile, kRows), 0,
           stream, inputs.const_data_ptr<scalar_t>(), sizes.const_data_ptr<T>(), head, data_of<T>(out));
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> yolo_grid_decode_cuda(const Tensor& inputs,  // [B, S * S * (C + 5 * N)]
                                                         int64_t side, int64_t num_boxes,
                                                         std::vector<int64_t> image_size, bool roots, Text classes) {
  const YoloClasses kind = check_yolo_grid_decode(inputs, side, num_boxes, image_size, classes);
  const DeviceGuard guard(inputs.get_device_index());
  const int64_t cells = side * side;
  const auto out = new_outputs(inputs, cells * num_boxes, inputs.size(1) / cells - 5 * num_boxes);
  const int64_t rows = inputs.size(0) * cells * num_boxes;
  PYDET_CHECK(rows < int64_t{1} << 31, "yolo_grid_decode: inputs must have fewer than 2^31 boxes, got ", rows);
  if (rows == 0) return out;
  const Tensor dense = torch::stable::contiguous(inputs);
  const cudaStream_t stream = current_stream(inputs);
  PYDET_DISPATCH_FLOATING(inputs.scalar_type(), "yolo_grid_decode", [&] {
    using T = Wide<scalar_t>;
    const YoloGrid<T> grid = yolo_grid<T>(side, num_boxes, inputs.size(1), image_size, roots);
    const auto kernel = kind == YoloClasses::linear ? yolo_grid_decode_kernel<YoloClasses::linear, T, scalar_t>
                                                    : yolo_grid_decode_kernel<YoloClasses::softmax, T, scalar_t>;
    launch(kernel, dim3(static_cast<unsigned>((rows + kGridRows - 1) / kGridRows)), dim3(kSoftmaxParts, kGridRows), 0,
           stream, dense.const_data_ptr<scalar_t>(), static_cast<unsigned>(rows), grid, data_of<T>(out));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("yolo_decode", TORCH_BOX(&yolo_decode_cuda));
  m.impl("yolo_grid_decode", TORCH_BOX(&yolo_grid_decode_cuda));
}

}  // namespace pydet
