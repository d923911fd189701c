#include <tuple>
#include <type_traits>
#include <vector>

#include "../checks/yolo_decode.h"
#include "../math/yolo_decode.h"
#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr int kTile = 32;  // a block decodes 32 cells of one anchor, 32 classes at a time
constexpr int kRows = 8;   // threads of a block: 32 x 8
constexpr int kResident = 2;  // blocks of a multiprocessor at least: asked for more, ptxas spills the float64 kernel

// Strides are in values, so that NCHW, channels last and crops are read as they lie.
template <typename T>
struct YoloHead {
  int64_t height, width, anchors, classes, image_stride, channel_stride, row_stride, column_stride;
  T stride_x, stride_y;  // pixels of the network's input a cell
};

template <typename T, typename In>
__device__ T load(const In* at) {
  return static_cast<T>(*at);
}

template <typename T, typename In>
__global__ void __launch_bounds__(kTile* kRows, kResident)
    yolo_decode_kernel(const In* inputs,   // [B, A * (5 + C), H, W]
                       const T* anchors,   // [A, 2]
                       YoloHead<T> head,
                       T* boxes,       // [B, H * W * A, 4]
                       T* objectness,  // [B, H * W * A]
                       T* scores) {    // [B, H * W * A, C]
  __shared__ T confidence[kTile];
  __shared__ int64_t source[kTile];     // where each cell lies in its plane
  __shared__ T tile[kTile][kTile + 1];  // one more: a column lies in 32 different banks
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

  if (thread_row < 2 && lane < count) {
    const unsigned cell = static_cast<unsigned>(first) + lane, width = static_cast<unsigned>(head.width);
    const int64_t x = cell % width, y = cell / width;
    const int64_t offset = y * head.row_stride + x * head.column_stride;
    const int64_t row = first_row + lane * head.anchors;
    const In* in = channels + offset;
    if (thread_row == 0) {
      source[lane] = offset;
      confidence[lane] = sigmoid(load<T>(in + 4 * head.channel_stride));
      objectness[row] = confidence[lane];
    } else {
      const Box<T> b = yolo_box(load<T>(in), load<T>(in + head.channel_stride), load<T>(in + 2 * head.channel_stride),
                                load<T>(in + 3 * head.channel_stride), static_cast<T>(x), static_cast<T>(y),
                                YoloAxis<T>{head.stride_x, anchors[2 * anchor]},
                                YoloAxis<T>{head.stride_y, anchors[2 * anchor + 1]});
      boxes[4 * row] = b.x1;
      boxes[4 * row + 1] = b.y1;
      boxes[4 * row + 2] = b.x2;
      boxes[4 * row + 3] = b.y2;
    }
  }
  __syncthreads();

  const In* logits = channels + 5 * head.channel_stride;
  T* out = scores + first_row * head.classes;
  const int64_t out_stride = head.anchors * head.classes;
  for (int64_t first_class = 0; first_class < head.classes; first_class += kTile) {
    const int labels = static_cast<int>(head.classes - first_class < kTile ? head.classes - first_class : kTile);
    if (head.channel_stride == 1) {  // read along the classes, as they are written
      for (int i = thread_row; i < count && lane < labels; i += kRows) {
        const T logit = load<T>(logits + source[i] + first_class + lane);
        out[i * out_stride + first_class + lane] = scaled_sigmoid(confidence[i], logit);
      }
      continue;
    }
    for (int i = thread_row; i < labels && lane < count; i += kRows) {  // read along the cells
      tile[i][lane] =
          scaled_sigmoid(confidence[lane], load<T>(logits + source[lane] + (first_class + i) * head.channel_stride));
    }
    __syncthreads();
    for (int i = thread_row; i < count && lane < labels; i += kRows) {  // write along the classes
      out[i * out_stride + first_class + lane] = tile[lane][i];
    }
    __syncthreads();
  }
}

std::tuple<Tensor, Tensor, Tensor> yolo_decode_cuda(const Tensor& inputs,  // [B, A * (5 + C), H, W]
                                                    const Tensor& anchors,  // [A, 2]
                                                    std::vector<int64_t> image_size) {
  check_yolo_decode(inputs, anchors, image_size);
  const DeviceGuard guard(inputs.get_device_index());
  const int64_t batch = inputs.size(0), height = inputs.size(2), width = inputs.size(3), count = anchors.size(0);
  const int64_t rows = height * width * count, classes = inputs.size(1) / count - 5;
  const ScalarType dtype = inputs.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor boxes = new_dense(inputs, {batch, rows, 4}, dtype);
  Tensor objectness = new_dense(inputs, {batch, rows}, dtype);
  Tensor scores = new_dense(inputs, {batch, rows, classes}, dtype);
  PYDET_CHECK(height * width < int64_t{1} << 31, "yolo_decode: inputs must have fewer than 2^31 cells, got ",
              shape_of(inputs));
  const int64_t blocks = batch * count * ((height * width + kTile - 1) / kTile);
  if (blocks == 0) return {boxes, objectness, scores};
  const Tensor sizes = as_contiguous(anchors, dtype);
  const cudaStream_t stream = current_stream(inputs);
  PYDET_DISPATCH_FLOATING(inputs.scalar_type(), "yolo_decode", [&] {
    using compute_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    const YoloHead<compute_t> head{
        height,
        width,
        count,
        classes,
        inputs.stride(0),
        inputs.stride(1),
        inputs.stride(2),
        inputs.stride(3),
        static_cast<compute_t>(static_cast<double>(image_size[1]) / static_cast<double>(width)),
        static_cast<compute_t>(static_cast<double>(image_size[0]) / static_cast<double>(height))};
    launch(yolo_decode_kernel<compute_t, scalar_t>, dim3(static_cast<unsigned>(blocks)), dim3(kTile, kRows), 0, stream,
           inputs.const_data_ptr<scalar_t>(), sizes.const_data_ptr<compute_t>(), head,
           boxes.mutable_data_ptr<compute_t>(), objectness.mutable_data_ptr<compute_t>(),
           scores.mutable_data_ptr<compute_t>());
  });
  return {boxes, objectness, scores};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("yolo_decode", TORCH_BOX(&yolo_decode_cuda)); }

}  // namespace pydet
