// soft_nms: each pick depends on all picks before it, so one block makes them all, in one launch. A pick is one pass
// over the boxes that are left, which lowers their scores and finds the best of them: N picks of N / 1,024 boxes a
// thread, 28 bytes each from the L1 or L2 cache, and one barrier.
//
// How many boxes are picked is the size of the result, so the host waits for that one number, once, at the end.
#include <tuple>

#include "../checks/nms.h"
#include "../math/nms.h"
#include "../math/soft_nms.h"
#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr unsigned kThreads = 1024;  // of the block, at most: fewer boxes take fewer
constexpr unsigned kAll = 0xffffffffu;

// What is left, a column for each thread: slot i * threads + thread. A box that goes leaves its slot to the last one
// of its column, which moves no other thread's boxes.
template <typename T>
struct SoftColumns {
  Box<T>* boxes;
  T* scores;
  unsigned* indices;
};

// The best box has the lowest key, of equal ones the lowest index.
struct SoftBest {
  uint64_t key;
  unsigned index;
};

__device__ SoftBest better(const SoftBest& a, const SoftBest& b) {
  return a.key < b.key || (a.key == b.key && a.index < b.index) ? a : b;
}

template <typename T>
__device__ SoftBest best_of(T score, unsigned index) {
  return {descending_key(rank_of_score(score)), index};
}

__device__ SoftBest best_of_warp(SoftBest best) {
  for (int flip = 16; flip; flip >>= 1) {
    best = better(best, {__shfl_xor_sync(kAll, best.key, flip), __shfl_xor_sync(kAll, best.index, flip)});
  }
  return best;
}

template <SoftNmsMethod kMethod, typename T>
__global__ void __launch_bounds__(kThreads, 1)
    soft_nms_kernel(const Box<T>* boxes, const T* scores, unsigned n, SoftNmsRule<T> rule, SoftColumns<T> left, T* dets,
                    int64_t* inds, int64_t* count) {  // [n, 5], [n], [1]
  __shared__ SoftBest of_warps[2][kThreads / 32];
  constexpr T kEmpty = -std::numeric_limits<T>::infinity();
  const SoftBest none{~uint64_t{0}, ~0u};
  const unsigned thread = threadIdx.x, threads = blockDim.x;
  unsigned end = thread;  // behind the last slot of this thread
  SoftBest best = none;
  for (; end < n; end += threads) {
    left.boxes[end] = boxes[end];
    left.scores[end] = scores[end];
    left.indices[end] = end;
    best = better(best, best_of(scores[end], end));
  }
  unsigned picks = 0;
  for (;; ++picks) {
    best = best_of_warp(best);
    SoftBest* const turn = of_warps[picks % 2];  // the other half may still be read
    if (thread % 32 == 0) turn[thread / 32] = best;
    __syncthreads();
    best = best_of_warp(thread % 32 < threads / 32 ? turn[thread % 32] : none);
    if (best.index == ~0u) break;
    const unsigned picked = best.index;
    const Box<T> box = boxes[picked];
    const T box_area = soft_nms_area(box, rule.offset);
    best = none;
    for (unsigned slot = thread; slot < end;) {
      const Box<T> other = left.boxes[slot];
      const unsigned index = left.indices[slot];
      T score = left.scores[slot];
      bool stays = index != picked && score != kEmpty;
      if (index == picked) {
        dets[5 * int64_t{picks}] = box.x1;
        dets[5 * int64_t{picks} + 1] = box.y1;
        dets[5 * int64_t{picks} + 2] = box.x2;
        dets[5 * int64_t{picks} + 3] = box.y2;
        dets[5 * int64_t{picks} + 4] = score;
        inds[picks] = index;
      } else if (stays) {
        const T overlap = soft_nms_iou(box, box_area, other, soft_nms_area(other, rule.offset), rule.offset);
        score = soft_nms_decay<kMethod>(score, overlap, rule);
        stays = !(score < rule.min_score) && score != kEmpty;
      }
      if (stays) {
        left.scores[slot] = score;
        best = better(best, best_of(score, index));
        slot += threads;
      } else {
        end -= threads;
        left.boxes[slot] = left.boxes[end];
        left.scores[slot] = left.scores[end];
        left.indices[slot] = left.indices[end];
      }
    }
  }
  if (thread == 0) *count = picks;
}

template <typename T, typename... Args>
void launch_soft_nms(SoftNmsMethod method, int64_t n, cudaStream_t stream, Args... args) {
  auto* const kernel = method == SoftNmsMethod::naive    ? soft_nms_kernel<SoftNmsMethod::naive, T>
                       : method == SoftNmsMethod::linear ? soft_nms_kernel<SoftNmsMethod::linear, T>
                                                         : soft_nms_kernel<SoftNmsMethod::gaussian, T>;
  const unsigned threads = n < kThreads ? (static_cast<unsigned>(n) + 31) / 32 * 32 : kThreads;
  launch(kernel, dim3(1), dim3(threads), 0, stream, args...);
}

template <typename T>
std::tuple<Tensor, Tensor> soft_nms_as(const Tensor& boxes, const Tensor& scores, SoftNmsMethod method,
                                       SoftNmsRule<T> rule) {
  const DeviceGuard guard(boxes.get_device_index());
  const int64_t n = boxes.size(0);
  if (n == 0) return {new_dense(boxes, {0, 5}, kDtype<T>), new_dense(boxes, {0}, ScalarType::Long)};
  const Tensor dense_boxes = as_contiguous(boxes, kDtype<T>), dense_scores = as_contiguous(scores, kDtype<T>);
  Tensor left_boxes = new_dense(boxes, {n, 4}, kDtype<T>), left_scores = new_dense(boxes, {n}, kDtype<T>);
  Tensor left_indices = new_dense(boxes, {n}, ScalarType::Int), count = new_dense(boxes, {1}, ScalarType::Long);
  Tensor dets = new_dense(boxes, {n, 5}, kDtype<T>), inds = new_dense(boxes, {n}, ScalarType::Long);
  const SoftColumns<T> left{reinterpret_cast<Box<T>*>(left_boxes.template mutable_data_ptr<T>()),
                            left_scores.template mutable_data_ptr<T>(),
                            reinterpret_cast<unsigned*>(left_indices.mutable_data_ptr<int>())};
  launch_soft_nms<T>(
      method, n, current_stream(boxes), reinterpret_cast<const Box<T>*>(dense_boxes.template const_data_ptr<T>()),
      dense_scores.template const_data_ptr<T>(), static_cast<unsigned>(n), rule, left,
      dets.template mutable_data_ptr<T>(), inds.mutable_data_ptr<int64_t>(), count.mutable_data_ptr<int64_t>());
  const int64_t picks = waited_for(count);
  return {torch::stable::clone(torch::stable::narrow(dets, 0, 0, picks)),
          torch::stable::clone(torch::stable::narrow(inds, 0, 0, picks))};
}

std::tuple<Tensor, Tensor> soft_nms_cuda(const Tensor& boxes,   // [N, 4] xyxy
                                         const Tensor& scores,  // [N]
                                         double iou_threshold, double sigma, double min_score, Text method,
                                         int64_t offset) {
  const SoftNmsMethod kind = check_soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset);
  if (wide_dtype(boxes, scores) == ScalarType::Double) {
    return soft_nms_as<double>(boxes, scores, kind, {iou_threshold, sigma, min_score, static_cast<double>(offset)});
  }
  return soft_nms_as<float>(boxes, scores, kind,
                            {static_cast<float>(iou_threshold), static_cast<float>(sigma),
                             static_cast<float>(min_score), static_cast<float>(offset)});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms_cuda)); }

}  // namespace pydet
