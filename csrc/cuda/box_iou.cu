#include "../checks/box_iou.h"
#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr int kColumns = 128;  // threads of a block: one column each, so that stores of a row are contiguous
constexpr int kRows = 16;      // rows per block: a thread loads its column once and reuses it

template <typename T, typename In>
__device__ Box<T> load_box(const In* boxes, int64_t i, BoxFormat format) {
  const In* b = boxes + 4 * i;
  return to_xyxy<T>(static_cast<T>(b[0]), static_cast<T>(b[1]), static_cast<T>(b[2]), static_cast<T>(b[3]), format);
}

template <typename T, typename In1, typename In2, typename Out>
__global__ void __launch_bounds__(kColumns)
    box_iou_kernel(const In1* boxes1,  // [batch, n, 4]
                   const In2* boxes2,  // [batch, m, 4]
                   int64_t batch, int64_t n, int64_t m, BoxFormat format, Out* out) {  // [batch, n, m]
  const int64_t row_blocks = (n + kRows - 1) / kRows;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  if (column >= m) return;
  for (int64_t task = blockIdx.y; task < batch * row_blocks; task += gridDim.y) {
    const int64_t image = task / row_blocks, first = (task % row_blocks) * kRows;
    const int64_t last = first + kRows < n ? first + kRows : n;
    const Box<T> b = load_box<T>(boxes2, image * m + column, format);
    const T b_area = area(b);
    for (int64_t row = first; row < last; ++row) {
      const Box<T> a = load_box<T>(boxes1, image * n + row, format);  // the same for the whole block: a broadcast
      out[(image * n + row) * m + column] = static_cast<Out>(iou(a, area(a), b, b_area));
    }
  }
}

template <typename T, typename In1, typename In2, typename Out>
void box_iou_launch(const Tensor& boxes1, const Tensor& boxes2, BoxFormat format, Tensor& out, cudaStream_t stream) {
  const int64_t n = boxes1.size(-2), m = boxes2.size(-2), batch = boxes1.numel() / (4 * n);
  const int64_t tasks = batch * ((n + kRows - 1) / kRows);
  const dim3 grid(static_cast<unsigned>((m + kColumns - 1) / kColumns),
                  static_cast<unsigned>(tasks < 65535 ? tasks : 65535));
  launch(box_iou_kernel<T, In1, In2, Out>, grid, dim3(kColumns), 0, stream, boxes1.const_data_ptr<In1>(),
         boxes2.const_data_ptr<In2>(), batch, n, m, format, out.mutable_data_ptr<Out>());
}

Tensor box_iou_cuda(const Tensor& boxes1,  // [..., N, 4]
                    const Tensor& boxes2,  // [..., M, 4]
                    std::string fmt, bool aligned) {
  const BoxFormat format = check_box_iou("box_iou", boxes1, boxes2, fmt, aligned);
  PYDET_CHECK(!aligned, "box_iou: aligned boxes have no CUDA kernel yet");
  const DeviceGuard guard(boxes1.get_device_index());
  // One kernel a dtype: a mixed pair is brought to what the arithmetic would use anyway.
  const bool out_double = boxes1.scalar_type() == ScalarType::Double || boxes2.scalar_type() == ScalarType::Double;
  const bool in_double = computes_in_double(boxes1) || computes_in_double(boxes2);
  const ScalarType shared_type = boxes1.scalar_type() == boxes2.scalar_type() && is_floating(boxes1.scalar_type())
                                     ? boxes1.scalar_type()
                                 : in_double ? ScalarType::Double
                                             : ScalarType::Float;
  const Tensor a = torch::stable::contiguous(torch::stable::to(boxes1, shared_type));
  const Tensor b = torch::stable::contiguous(torch::stable::to(boxes2, shared_type));
  std::vector<int64_t> shape(boxes1.sizes().begin(), boxes1.sizes().end());
  shape.back() = boxes2.size(-2);
  Tensor out = new_dense(boxes1, shape, out_double ? ScalarType::Double : ScalarType::Float);
  if (out.numel() == 0) return out;
  const cudaStream_t stream = current_stream(boxes1);
  if (in_double) {
    if (out_double) {
      box_iou_launch<double, double, double, double>(a, b, format, out, stream);
    } else {
      box_iou_launch<double, double, double, float>(a, b, format, out, stream);
    }
  } else {
    PYDET_DISPATCH_FLOATING(shared_type, "box_iou",
                            [&] { box_iou_launch<float, scalar_t, scalar_t, float>(a, b, format, out, stream); });
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("box_iou", TORCH_BOX(&box_iou_cuda)); }

}  // namespace pydet
