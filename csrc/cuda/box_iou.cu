#include "box_iou.cuh"

#include "../box_iou_kinds.h"
#include "box_iou_pairs.cuh"

namespace pydet {
namespace {

constexpr int kThreads = 256;
// In shared memory, one prepared by each thread: what a thread prepares of its columns serves an eighth of them.
constexpr int kRowsOfTile = kThreads;

// Of a thread: 16 bytes of the result, as many as the registers take in double.
template <typename T>
constexpr int kColumns = sizeof(T) == 4 ? 4 : 2;

// The rows in shared memory with the columns of this thread, of which `left` are inside of the matrix. A warp writes
// 512 bytes of a row at a time.
template <IouKind kind, typename Divide, typename T, typename Out>
__device__ void write_tile(const IouBox<T>* rows, int count, const IouBox<T> (&columns)[kColumns<T>], int64_t left,
                           int step, IouRules<T> rules, int64_t m, Out* out) {
  bool inside[kColumns<T>];
#pragma unroll
  for (int k = 0; k < kColumns<T>; ++k) inside[k] = k * step < left;
  const int64_t stride = static_cast<int64_t>(blockDim.y) * m;
  out += static_cast<int64_t>(threadIdx.y) * m;
  for (int row = static_cast<int>(threadIdx.y); row < count; row += static_cast<int>(blockDim.y), out += stride) {
    const IouBox<T> a = rows[row];
    Out values[kColumns<T>];
#pragma unroll
    for (int k = 0; k < kColumns<T>; ++k) values[k] = static_cast<Out>(pair_iou<kind>(a, columns[k], rules, Divide()));
    // Past the caches: nothing of the result is read here again.
    if constexpr (sizeof(T) == 4) {
      if (step == 1) {
        if (inside[0]) __stcs(reinterpret_cast<float4*>(out), make_float4(values[0], values[1], values[2], values[3]));
        continue;
      }
    }
#pragma unroll
    for (int k = 0; k < kColumns<T>; ++k) {
      if (inside[k]) __stcs(out + k * step, values[k]);
    }
  }
}

// Blocks of lanes x rows threads over column tiles, row tiles and images. `step` is 1 where rows of the result are
// aligned to 16 bytes: a thread has columns that follow one another; else it is the number of lanes, so that those of a
// warp do.
template <IouKind kind, typename T, typename Out>
__global__ void __launch_bounds__(kThreads, 2)
    all_pairs_kernel(const T* boxes1,  // [batch, n, 4]
                     const T* boxes2,  // [batch, m, 4]
                     int64_t batch, int64_t n, int64_t m, BoxFormat format, IouRules<T> rules, int step,
                     Out* out) {  // [batch, n, m]
  __shared__ IouBox<T> rows[kRowsOfTile];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t column =
      static_cast<int64_t>(blockIdx.x) * blockDim.x * kColumns<T> + (step == 1 ? kColumns<T> * lane : lane);
  for (int64_t image = blockIdx.z; image < batch; image += gridDim.z) {
    IouBox<T> columns[kColumns<T>];
    bool regular = true;
#pragma unroll
    for (int k = 0; k < kColumns<T>; ++k) {
      const int64_t j = column + k * step;
      const Box<T> box = j < m ? load_box(boxes2, image * m + j, format) : Box<T>{0, 0, 1, 1};
      regular = regular && is_regular(box);
      columns[k] = to_iou_box<kind>(box);
    }
    for (int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsOfTile; first < n;
         first += static_cast<int64_t>(gridDim.y) * kRowsOfTile) {
      const int count = static_cast<int>(n - first < kRowsOfTile ? n - first : kRowsOfTile);
      const int row = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
      bool all_regular = regular;
      if (row < count) {
        const Box<T> box = load_box(boxes1, image * n + first + row, format);
        all_regular = all_regular && is_regular(box);
        rows[row] = to_iou_box<kind>(box);
      }
      Out* const tile = out + (image * n + first) * m + column;
      const bool fast = __syncthreads_and(all_regular);
      if constexpr (sizeof(T) == 4) {
        if (fast) write_tile<kind, RegularDivision>(rows, count, columns, m - column, step, rules, m, tile);
      }
      if (!fast) write_tile<kind, Division>(rows, count, columns, m - column, step, rules, m, tile);
      __syncthreads();  // before the next rows take the place of these
    }
  }
}

unsigned blocks_for(int64_t count, int64_t in_block, int64_t most) {
  return static_cast<unsigned>(std::min<int64_t>((count + in_block - 1) / in_block, most));
}

template <IouKind kind, typename T, typename Out>
void launch_all_pairs(const Tensor& boxes1, const Tensor& boxes2, BoxFormat format, double eps, Tensor& out,
                      cudaStream_t stream) {
  const int64_t n = boxes1.size(-2), m = boxes2.size(-2), batch = out.numel() / (n * m);
  unsigned lanes = 32;
  while (lanes > 2 && static_cast<int64_t>(lanes / 2) * kColumns<T> >= m) lanes /= 2;  // few columns: more rows instead
  const bool vectors = sizeof(T) == 4 && m % kColumns<T> == 0;
  const dim3 grid(blocks_for(m, lanes * kColumns<T>, 0x7fffffff), blocks_for(n, kRowsOfTile, 65535),
                  blocks_for(batch, 1, 65535));
  launch(all_pairs_kernel<kind, T, Out>, grid, dim3(lanes, kThreads / lanes), 0, stream, boxes1.const_data_ptr<T>(),
         boxes2.const_data_ptr<T>(), batch, n, m, format, pairwise_rules<T>(kind, eps),
         vectors ? 1 : static_cast<int>(lanes), out.mutable_data_ptr<Out>());
}

// One kernel a type of arithmetic: boxes, which are few beside their pairs, are brought to it first.
Tensor box_iou_of(const char* op, IouKind kind,
                  const Tensor& boxes1,  // [..., N, 4]
                  const Tensor& boxes2,  // [..., M, 4], or as boxes1 where they are aligned
                  const std::string& fmt, double eps, bool aligned) {
  const BoxFormat format = check_box_iou(op, boxes1, boxes2, fmt, aligned);
  const DeviceGuard guard(boxes1.get_device_index());
  Tensor out = new_dense(boxes1, pairs_shape(boxes1, boxes2, aligned), wide_dtype(boxes1, boxes2));
  if (out.numel() == 0) return out;
  const cudaStream_t stream = current_stream(boxes1);
  dispatch_iou(boxes1, boxes2, [&](auto compute, auto result) {
    using T = decltype(compute);
    using Out = decltype(result);
    const Tensor dense1 = as_contiguous(boxes1, kDtype<T>), dense2 = as_contiguous(boxes2, kDtype<T>);
    dispatch_kind(kind, [&](auto constant) {
      constexpr IouKind k = decltype(constant)::value;
      if (aligned) {
        const PairRules<T> rules{pairwise_rules<T>(k, eps), format, false};
        launch_pairs<k, T, Out>(dense1, dense2, rules, out, stream);
      } else {
        launch_all_pairs<k, T, Out>(dense1, dense2, format, eps, out, stream);
      }
    });
  });
  return out;
}

using Operators = IouOperators<box_iou_of>;

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("box_iou", TORCH_BOX(&Operators::box_iou));
  m.impl("generalized_box_iou", TORCH_BOX(&Operators::generalized_box_iou));
  m.impl("distance_box_iou", TORCH_BOX(&Operators::distance_box_iou));
  m.impl("complete_box_iou", TORCH_BOX(&Operators::complete_box_iou));
  m.impl("box_iof", TORCH_BOX(&Operators::box_iof));
}

}  // namespace pydet
