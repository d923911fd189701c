// nms and batched_nms: sort by score, sort by neighbourhood (nms_sort.cuh), decide (nms_suppress.cuh), write what is
// kept. 10,000 boxes take 8 launches, 100,000 take 10, a million 12; memory is about 80 bytes a float32 box.
//
// How many boxes are kept is the size of the result, so the host waits for that one number, once, at the end.
#include <optional>

#include "../checks/nms.h"
#include "cuda_utils.cuh"
#include "nms_suppress.cuh"

namespace pydet {
namespace {

constexpr int kWriters = 1024;  // threads of a block, a rank each

template <typename S>
struct ScoreKeys {
  const S* scores;  // [N]

  __device__ SortPair operator()(unsigned, unsigned i) const { return {descending_key(scores[i]), i}; }
};

// Boxes by rank, and on the way the clearing of what is written behind them.
template <typename T>
struct RankedKeys {
  const Box<T>* boxes;    // [N]
  const int64_t* idxs;    // [N] integers or the bits of doubles, or null
  const uint32_t* order;  // [N] index by rank
  bool floating_idxs;
  NmsRule<T> rule;
  NmsBoxes<T> ranked;
  unsigned long long* total;

  // -0 is the class 0. NaN, which the CPU refuses, is a class: to look for one would be to wait for the answer.
  __device__ int64_t segment(uint32_t index) const {
    const int64_t bits = idxs[index];
    return floating_idxs && bits == INT64_MIN ? 0 : bits;
  }

  __device__ SortPair operator()(unsigned, unsigned rank) const {
    const uint32_t index = order[rank];
    if (rank == 0) *total = 0;
    return ranked.add(rank, boxes[index], idxs ? segment(index) : 0, rule);
  }
};

__global__ void __launch_bounds__(kWriters)
    count_kept_kernel(const int* states, int64_t n, int* of_blocks, unsigned long long* total) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * kWriters + threadIdx.x;
  const int count = __syncthreads_count(rank < n && states[rank] == kKept);
  if (threadIdx.x > 0) return;
  of_blocks[blockIdx.x] = count;
  atomicAdd(total, static_cast<unsigned long long>(count));
}

__global__ void __launch_bounds__(kWriters)
    write_kept_kernel(const int* states, const uint32_t* order, int64_t n, const int* of_blocks, int64_t* kept) {
  __shared__ long long before[kWriters / 32];  // of each warp: a share of what the blocks before this one keep
  __shared__ int of_warps[kWriters / 32];
  long long share = 0;
  for (int64_t block = threadIdx.x; block < blockIdx.x; block += kWriters) share += of_blocks[block];
  for (int flip = 16; flip; flip >>= 1) share += __shfl_xor_sync(kAll, share, flip);
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * kWriters + threadIdx.x;
  const bool keeps = rank < n && states[rank] == kKept;
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, in_warp = __ballot_sync(kAll, keeps);
  if (lane == 0) {
    before[warp] = share;
    of_warps[warp] = __popc(in_warp);
  }
  __syncthreads();
  int64_t place = __popc(in_warp & ((1u << lane) - 1));
  for (unsigned w = 0; w < kWriters / 32; ++w) place += before[w] + (w < warp ? of_warps[w] : 0);
  if (keeps) kept[place] = order[rank];
}

template <typename T>
Tensor nms_as(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, double iou_threshold) {
  const int64_t n = boxes.size(0), blocks = (n + kWriters - 1) / kWriters;
  const bool double_scores = scores.scalar_type() == ScalarType::Double;
  const bool floating_idxs = idxs && is_floating(idxs->scalar_type());
  const Tensor dense_boxes = as_contiguous(boxes, kDtype<T>);
  const Tensor dense_scores = as_contiguous(scores, double_scores ? ScalarType::Double : ScalarType::Float);
  const Tensor keys = idxs ? as_contiguous(*idxs, floating_idxs ? ScalarType::Double : ScalarType::Long) : dense_boxes;
  const NmsMemory<T> memory(boxes, 1, n, idxs.has_value());
  Tensor of_blocks = new_dense(boxes, {blocks}, ScalarType::Int), total = new_dense(boxes, {1}, ScalarType::Long);
  auto* const total_data = reinterpret_cast<unsigned long long*>(total.mutable_data_ptr<int64_t>());
  const cudaStream_t stream = current_stream(boxes);

  const Problems problem{1, n, nullptr, static_cast<unsigned>(n)};
  const NmsRule<T> rule = nms_rule<T>(iou_threshold);
  const uint32_t* order =
      double_scores ? memory.sort_by_score(ScoreKeys<double>{dense_scores.const_data_ptr<double>()}, problem, stream)
                    : memory.sort_by_score(ScoreKeys<float>{dense_scores.const_data_ptr<float>()}, problem, stream);
  const RankedKeys<T> ranked{reinterpret_cast<const Box<T>*>(dense_boxes.template const_data_ptr<T>()),
                             idxs ? static_cast<const int64_t*>(keys.const_data_ptr()) : nullptr,
                             order,
                             floating_idxs,
                             rule,
                             memory.boxes,
                             total_data};
  memory.suppress(ranked, problem, rule, stream);
  launch(count_kept_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kWriters), 0, stream, memory.boxes.states, n,
         of_blocks.mutable_data_ptr<int>(), total_data);
  const int64_t kept = waited_for(total);
  Tensor out = new_dense(boxes, {kept}, ScalarType::Long);
  if (kept == 0) return out;
  launch(write_kept_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kWriters), 0, stream, memory.boxes.states, order,
         n, of_blocks.const_data_ptr<int>(), out.mutable_data_ptr<int64_t>());
  return out;
}

Tensor nms_of_any(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, double iou_threshold) {
  const DeviceGuard guard(boxes.get_device_index());
  if (boxes.size(0) == 0) return new_dense(boxes, {0}, ScalarType::Long);
  return boxes.scalar_type() == ScalarType::Double ? nms_as<double>(boxes, scores, idxs, iou_threshold)
                                                   : nms_as<float>(boxes, scores, idxs, iou_threshold);
}

Tensor nms_cuda(const Tensor& boxes,   // [N, 4] xyxy
                const Tensor& scores,  // [N]
                double iou_threshold) {
  check_nms("nms", boxes, scores, iou_threshold);
  return nms_of_any(boxes, scores, std::nullopt, iou_threshold);
}

Tensor batched_nms_cuda(const Tensor& boxes,   // [N, 4] xyxy
                        const Tensor& scores,  // [N]
                        const Tensor& idxs,    // [N]
                        double iou_threshold) {
  check_batched_nms(boxes, scores, idxs, iou_threshold);
  return nms_of_any(boxes, scores, idxs, iou_threshold);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) {
  m.impl("nms", TORCH_BOX(&nms_cuda));
  m.impl("batched_nms", TORCH_BOX(&batched_nms_cuda));
}

}  // namespace pydet
