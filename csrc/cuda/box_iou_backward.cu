// The gradients of box_iou, generalized_box_iou, distance_box_iou, complete_box_iou and box_iof.
#include <tuple>

#include "../box_iou_kinds.h"
#include "box_iou_pairs.cuh"

namespace pydet {
namespace {

constexpr int kLanes = 32, kWarps = 8, kThreads = kLanes * kWarps;
constexpr int kOthers = 64;        // boxes of the other set at a time
constexpr int kMostParts = 64;     // of a sum: its parts are added by one thread
constexpr int64_t kBlocks = 1024;  // that fill a large GPU; no sum may depend on how large it is

// x1, y1, x2, y2, area, angle: what a box gets of its pairs, before the area and the angle are brought to the corners.
template <typename T>
struct Sums {
  T of[6] = {};
};

template <bool own_rows, IouKind kind, typename T>
__device__ void add_gradient(Sums<T>& sums, const IouGradient<T>& g) {
  const Box<T> corners = own_rows ? g.a : g.b;
  sums.of[0] += corners.x1;
  sums.of[1] += corners.y1;
  sums.of[2] += corners.x2;
  sums.of[3] += corners.y2;
  sums.of[4] += own_rows ? g.area_a : g.area_b;
  if constexpr (kind == IouKind::complete) sums.of[5] += own_rows ? g.angle : -g.angle;
}

// Sums for the boxes of one set, the rows or the columns of the matrix: a thread has one of the 32 own boxes of its
// block and every eighth of the others, of which a block takes one part. Tiles of the gradient come through shared
// memory, so that both sets read along its rows. No atomics: every sum has its order.
template <bool own_rows, IouKind kind, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    sums_kernel(const T* own_boxes,    // [batch, own, 4]
                const T* other_boxes,  // [batch, others, 4]
                const T* gradients,  // [batch, own, others], or [batch, others, own] where the own ones are columns
                int64_t batch, int64_t own, int64_t others, int64_t part_size, BoxFormat format, IouRules<T> rules,
                T* out) {  // [parts, 6, batch * own]
  constexpr int kTileRows = own_rows ? kLanes : kOthers, kTileColumns = own_rows ? kOthers : kLanes;
  __shared__ IouBox<T> other_tile[kOthers];
  __shared__ T tile[kTileRows][kTileColumns + 1];  // a column more: a warp reads down it without conflicts
  __shared__ T part_sums[kWarps][6][kLanes];
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y), thread = warp * kLanes + lane;
  const int64_t first_own = static_cast<int64_t>(blockIdx.x) * kLanes, i = first_own + lane;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * part_size;
  const int64_t end = begin + part_size < others ? begin + part_size : others;
  const int64_t width = own_rows ? others : own;
  for (int64_t image = blockIdx.z; image < batch; image += gridDim.z) {
    IouBox<T> self = {};
    if (i < own) self = to_iou_box<kind>(load_box(own_boxes, image * own + i, format));
    Sums<T> sums;
    for (int64_t first = begin; first < end; first += kOthers) {
      const int count = static_cast<int>(end - first < kOthers ? end - first : kOthers);
      if (thread < count) {
        other_tile[thread] = to_iou_box<kind>(load_box(other_boxes, image * others + first + thread, format));
      }
      const int64_t row = own_rows ? first_own : first, column = own_rows ? first : first_own;
      const int64_t height = own_rows ? own : end, right = own_rows ? end : own;
      for (int k = thread; k < kTileRows * kTileColumns; k += kThreads) {
        const int y = k / kTileColumns, x = k % kTileColumns;
        const bool inside = row + y < height && column + x < right;
        tile[y][x] = inside ? gradients[(image * own * others) + (row + y) * width + column + x] : T(0);
      }
      __syncthreads();
      if (i < own) {
        for (int k = warp; k < count; k += kWarps) {
          const T gradient = own_rows ? tile[lane][k] : tile[k][lane];
          const IouBox<T>& other = other_tile[k];
          add_gradient<own_rows, kind>(sums, own_rows ? pair_iou_gradient<kind>(self, other, rules, gradient)
                                                      : pair_iou_gradient<kind>(other, self, rules, gradient));
        }
      }
      __syncthreads();  // before the next tile takes the place of this one
    }
    for (int s = 0; s < 6; ++s) part_sums[warp][s][lane] = sums.of[s];
    __syncthreads();
    if (warp < 6 && i < own) {
      T sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += part_sums[w][warp][lane];
      out[(blockIdx.y * 6 + warp) * batch * own + image * own + i] = sum;
    }
    __syncthreads();
  }
}

// Adds the parts and brings the gradient to the four numbers of each box.
template <IouKind kind, typename T>
__global__ void __launch_bounds__(kThreads)
    gradient_of_sums_kernel(const T* boxes, const T* sums, int64_t count, int parts, BoxFormat format, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  Sums<T> total;
  for (int part = 0; part < parts; ++part) {
    for (int s = 0; s < 6; ++s) total.of[s] += sums[(static_cast<int64_t>(part) * 6 + s) * count + i];
  }
  const Box<T> corners{total.of[0], total.of[1], total.of[2], total.of[3]};
  const Box<T> box = load_box(boxes, i, format);
  store_box(out, i, from_xyxy_gradient(corner_gradient<kind>(box, corners, total.of[4], total.of[5]), format));
}

template <bool own_rows, IouKind kind, typename T>
void launch_sums(const Tensor& own_boxes, const Tensor& other_boxes, const Tensor& gradient, BoxFormat format,
                 double eps, Tensor& out, cudaStream_t stream) {
  const int64_t own = own_boxes.size(-2), others = other_boxes.size(-2), count = own_boxes.numel() / 4;
  const int64_t batch = count / own, blocks = (own + kLanes - 1) / kLanes, tiles = (others + kOthers - 1) / kOthers;
  // Parts only where there are few blocks, and not more memory than for a few numbers a box of either set.
  const int64_t wanted = std::min<int64_t>({kBlocks / (blocks * batch) + 1, tiles, kMostParts, 1 + others / own});
  const int64_t part_size = (tiles + wanted - 1) / wanted * kOthers, parts = (others + part_size - 1) / part_size;
  Tensor sums = new_dense(out, {parts, 6, count}, out.scalar_type());
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts),
                  static_cast<unsigned>(std::min<int64_t>(batch, 65535)));
  launch(sums_kernel<own_rows, kind, T>, grid, dim3(kLanes, kWarps), 0, stream, own_boxes.const_data_ptr<T>(),
         other_boxes.const_data_ptr<T>(), gradient.const_data_ptr<T>(), batch, own, others, part_size, format,
         pairwise_rules<T>(kind, eps), sums.mutable_data_ptr<T>());
  launch(gradient_of_sums_kernel<kind, T>, dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)),
         dim3(kThreads), 0, stream, own_boxes.const_data_ptr<T>(), sums.const_data_ptr<T>(), count,
         static_cast<int>(parts), format, out.mutable_data_ptr<T>());
}

// Gradients of both boxes in the type of the arithmetic, float or double.
std::tuple<Tensor, Tensor> box_iou_backward_cuda(const Tensor& gradient,  // [..., N, M], or [..., N] where aligned
                                                 const Tensor& boxes1,  // [..., N, 4]
                                                 const Tensor& boxes2,  // [..., M, 4]
                                                 Text op, Text fmt, double eps, bool aligned) {
  const IouKind kind = kind_of(kIouOperators, op, "_box_iou_backward");
  const BoxFormat format = check_box_iou_backward(op.c_str(), gradient, boxes1, boxes2, fmt, aligned);
  const DeviceGuard guard(boxes1.get_device_index());
  const bool in_double = computes_in_double(boxes1, boxes2);
  const ScalarType type = in_double ? ScalarType::Double : ScalarType::Float;
  Tensor out1 = new_dense(boxes1, shape_vector(boxes1), type), out2 = new_dense(boxes2, shape_vector(boxes2), type);
  if (gradient.numel() == 0) {  // no pairs: boxes there may still be
    torch::stable::zero_(out1);
    torch::stable::zero_(out2);
    return {out1, out2};
  }
  const cudaStream_t stream = current_stream(boxes1);
  const Tensor dense1 = as_contiguous(boxes1, type), dense2 = as_contiguous(boxes2, type);
  const Tensor dense = as_contiguous(gradient, type);
  dispatch_kind(kind, [&](auto constant) {
    constexpr IouKind k = decltype(constant)::value;
    const auto run = [&](auto compute) {
      using T = decltype(compute);
      if (aligned) {
        const PairRules<T> rules{pairwise_rules<T>(k, eps), format, false};
        return launch_pairs_gradient<k>(dense1, dense2, rules, dense, 1, T(1), out1, out2, stream);
      }
      launch_sums<true, k, T>(dense1, dense2, dense, format, eps, out1, stream);
      launch_sums<false, k, T>(dense2, dense1, dense, format, eps, out2, stream);
    };
    if (in_double) {
      run(double());
    } else {
      run(float());
    }
  });
  return {out1, out2};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("_box_iou_backward", TORCH_BOX(&box_iou_backward_cuda)); }

}  // namespace pydet
