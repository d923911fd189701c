// anchor_kmeans, without a host that waits: every launch is made beforehand, and those after the last iteration that is
// needed return at once. Sums are of whole numbers, as on the CPU, so that blocks may add in any order. For the medians
// the boxes are sorted by width and by height once; a cluster's is the middle one of its boxes in that order, found by
// counting them in parts of it.
#include <limits>
#include <tuple>

#include "../checks/anchor_kmeans.h"
#include "anchor_kmeans.cuh"
#include "nms_sort.cuh"
#include "workspace.cuh"

namespace pydet {
namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int64_t kMostCounts = int64_t{1} << 22;  // of an axis

struct SizesOfBoxes {
  const double2* shapes;

  __device__ SortPair operator()(unsigned axis, unsigned i) const {
    return {static_cast<uint64_t>(bits_of(axis == 0 ? shapes[i].x : shapes[i].y)), i};
  }
};

__device__ bool goes_on(const KMeans& s, const KMeansState& state) {
  return !state.done && s.facts->valid && s.facts->enough;
}

// Every box to its nearest centre, of equals the first.
__global__ void __launch_bounds__(kThreads) assign_kernel(KMeans s, KMeansState* state) {
  if (!goes_on(s, *state)) return;
  bool changed = false;
  const long long total = sum_of(s.parts.begin(blockIdx.x), s.parts.end(blockIdx.x), [&](int64_t i) -> long long {
    double nearest = -1;
    int label = 0;
    for (int64_t c = 0; c < s.k; ++c) {
      const double iou = s.iou_with(i, s.centres[c], s.centres[s.k + c]);
      const bool better = iou > nearest;
      nearest = better ? iou : nearest;
      label = better ? static_cast<int>(c) : label;
    }
    changed |= label != s.label[i];
    s.iou[i] = nearest;
    s.label[i] = label;
    return in_units(nearest, s.unit);
  });
  const bool any = __syncthreads_or(changed) != 0;
  if (threadIdx.x != 0) return;
  atomicAdd(&state->total, static_cast<unsigned long long>(total));
  if (any) atomicOr(&state->changed, 1);
}

// Blocks [parts of the order, 2]: how many boxes of each cluster a part of the order along an axis has.
__global__ void __launch_bounds__(kThreads) count_kernel(KMeans s, const KMeansState* state) {
  if (!goes_on(s, *state) || !state->changed) return;
  const uint32_t* order = s.order + blockIdx.y * s.of_order.n;
  unsigned* counts = s.counts + blockIdx.y * s.k * s.of_order.count + blockIdx.x;
  for (int64_t c = threadIdx.x; c < s.k; c += kThreads) counts[c * s.of_order.count] = 0;
  __syncthreads();
  const int64_t end = s.of_order.end(blockIdx.x);
  for (int64_t first = s.of_order.begin(blockIdx.x); first < end; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const unsigned here = __ballot_sync(kAll, i < end);
    if (i >= end) continue;
    const int label = s.label[order[i]];
    const unsigned alike = __match_any_sync(here, label);  // one addition for all of a warp: there are few clusters
    if (threadIdx.x % 32 + 1 == static_cast<unsigned>(__ffs(static_cast<int>(alike)))) {
      atomicAdd(&counts[label * int64_t{s.of_order.count}], static_cast<unsigned>(__popc(alike)));
    }
  }
}

__device__ long long boxes_of_cluster(const KMeans& s, int64_t c) {
  const unsigned* counts = s.counts + c * s.of_order.count;
  return sum_of(0, s.of_order.count, [&](int64_t part) -> long long { return counts[part]; });
}

// The box that is farthest from its own centre, the first of equals, after `turn` others.
__device__ int64_t farthest_box(const KMeans& s, int64_t turn) {
  __shared__ unsigned long long lowest;
  __shared__ unsigned first;
  double last = -1;
  int64_t found = -1;
  for (; turn >= 0; --turn) {
    if (threadIdx.x == 0) lowest = ~0ull, first = ~0u;
    double own = 2;
    int64_t box = -1;
    for (int64_t i = threadIdx.x; i < s.parts.n; i += kThreads) {
      const double iou = s.iou[i];
      if (iou < own && (iou > last || (iou == last && i > found))) own = iou, box = i;
    }
    const unsigned long long bits = static_cast<unsigned long long>(bits_of(own));
    __syncthreads();
    atomicMin(&lowest, bits);
    __syncthreads();
    if (box >= 0 && bits == lowest) atomicMin(&first, static_cast<unsigned>(box));
    __syncthreads();
    last = __longlong_as_double(static_cast<long long>(lowest));
    found = first;
    __syncthreads();
  }
  return found;
}

// A coordinate of the median of a cluster's boxes, of two in the middle the lower.
__device__ double median_of_cluster(const KMeans& s, unsigned c, unsigned axis, long long size) {
  const unsigned* counts = s.counts + (axis * s.k + c) * s.of_order.count;
  const Found part =
      find_in_sums(0, s.of_order.count, (size - 1) / 2, [&](int64_t i) -> long long { return counts[i]; });
  const uint32_t* order = s.order + axis * s.parts.n;
  const Found middle = find_in_sums(s.of_order.begin(part.index), s.of_order.end(part.index), part.rest,
                                    [&](int64_t i) -> long long { return s.label[order[i]] == static_cast<int>(c); });
  return __longlong_as_double(static_cast<long long>(s.sorted[axis * s.parts.n + middle.index]));
}

// Blocks [k, 2]. Without the 1 ptxas saves registers for more blocks at once, and spills for sm_120.
__global__ void __launch_bounds__(kThreads, 1) move_kernel(KMeans s, const KMeansState* state, KMeansState* next) {
  const bool better = static_cast<long long>(state->total) > state->best, on = goes_on(s, *state);
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    *next = {0, better ? static_cast<long long>(state->total) : state->best, 0, !on || !state->changed};
  }
  if (!on) return;
  const int64_t at = blockIdx.y * s.k + blockIdx.x;
  // A median is not the best of all centres: a step may be one back.
  if (better && threadIdx.x == 0) s.best[at] = s.centres[at];
  if (!state->changed) return;
  const long long size = boxes_of_cluster(s, blockIdx.x);
  if (size == 0) return;
  const double median = median_of_cluster(s, blockIdx.x, blockIdx.y, size);
  if (threadIdx.x == 0) s.centres[at] = median;
}

// Blocks [k]: a centre without any boxes becomes the box that is farthest from its own; of several such centres, one
// after the other.
__global__ void __launch_bounds__(kThreads, 1) rescue_kernel(KMeans s, const KMeansState* state) {
  if (!goes_on(s, *state) || !state->changed || boxes_of_cluster(s, blockIdx.x) > 0) return;
  int64_t turn = 0;
  for (unsigned other = 0; other < blockIdx.x; ++other) turn += boxes_of_cluster(s, other) == 0;
  const int64_t box = farthest_box(s, turn);
  if (threadIdx.x != 0) return;
  s.centres[blockIdx.x] = s.shapes[box].x;
  s.centres[s.k + blockIdx.x] = s.shapes[box].y;
}

// The best centres, smallest area first, of equal ones the narrowest, and their average IoU.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(KMeans s, const KMeansState* state, T* anchors, T* average_iou) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= s.k) return;
  const bool known = s.facts->valid && s.facts->enough;
  const bool last = !state->done && static_cast<long long>(state->total) > state->best;
  const double* widths = last ? s.centres : s.best;
  const double* heights = widths + s.k;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  int64_t rank = known ? 0 : c;
  for (int64_t other = 0; known && other < s.k; ++other) {
    const double area = widths[other] * heights[other], own = widths[c] * heights[c];
    const bool before = area != own ? area < own : widths[other] != widths[c] ? widths[other] < widths[c] : other < c;
    rank += before;
  }
  anchors[2 * rank] = static_cast<T>(known ? std::ldexp(widths[c], s.facts->exponent) : nan);
  anchors[2 * rank + 1] = static_cast<T>(known ? std::ldexp(heights[c], s.facts->exponent) : nan);
  if (c != 0) return;
  const double total = static_cast<double>(last ? static_cast<long long>(state->total) : state->best);
  *average_iou = static_cast<T>(known ? total / s.unit / static_cast<double>(s.parts.n) : nan);
}

void sort_sizes(KMeans& s, const SortMemory& memory, cudaStream_t stream) {
  const Problems axes{2, s.parts.n, nullptr, static_cast<unsigned>(s.parts.n)};
  const int place = sort_pairs(SizesOfBoxes{s.shapes}, axes, memory, stream);
  s.sorted = memory.keys[place];
  s.order = memory.values[place];
}

Tensor allocate_kmeans(const Tensor& like, KMeans& s, SortMemory& sorting) {
  const int64_t n = s.parts.n, parts = s.parts.count, draws = draws_of_centre(s.k);
  return allocate(like, [&](Workspace& workspace) {
    workspace.cut(s.facts, 1);
    workspace.cut(s.states, 2);
    workspace.cut(s.extremes, parts);
    workspace.cut(s.distances, parts);
    workspace.cut(s.drawn, draws);
    workspace.cut(s.after, draws);
    workspace.cut(s.centres, 2 * s.k);
    workspace.cut(s.best, 2 * s.k);
    workspace.cut(s.counts, 2 * s.k * s.of_order.count);
    workspace.cut(s.shapes, n);
    workspace.cut(s.iou, n);
    workspace.cut(s.label, n);
    for (int i = 0; i < 2; ++i) {
      workspace.cut(sorting.keys[i], 2 * n);
      workspace.cut(sorting.values[i], 2 * n);
    }
  });
}

std::tuple<Tensor, Tensor> anchor_kmeans_cuda(const Tensor& wh,  // [N, 2]
                                              int64_t k, int64_t seed, int64_t max_iterations) {
  check_anchor_kmeans(wh, k, max_iterations);
  const DeviceGuard guard(wh.get_device_index());
  const ScalarType dtype = wide_dtype(wh);
  Tensor anchors = new_dense(wh, {k, 2}, dtype), average_iou = new_dense(wh, {}, dtype);
  const Tensor sizes = as_contiguous(wh, ScalarType::Double);
  const int64_t n = wh.size(0);
  KMeans s{Parts(n, most_parts()), Parts(n, std::clamp<int64_t>(kMostCounts / k, 1, most_parts())), k, unit_of_sum(n)};
  SortMemory sorting{};
  const Tensor memory = allocate_kmeans(wh, s, sorting);
  const cudaStream_t stream = current_stream(wh);
  const dim3 parts(s.parts.count), block(kThreads);
  launch(extremes_kernel, parts, block, 0, stream, s, sizes.const_data_ptr<double>());
  launch(scale_kernel, parts, block, 0, stream, s, sizes.const_data_ptr<double>());
  sort_sizes(s, sorting, stream);
  start(s, static_cast<uint64_t>(seed), stream);
  for (int64_t iteration = 0;; ++iteration) {
    KMeansState *state = s.states + iteration % 2, *next = s.states + (iteration + 1) % 2;
    launch(assign_kernel, parts, block, 0, stream, s, state);
    if (iteration < max_iterations) {
      launch(count_kernel, dim3(s.of_order.count, 2), block, 0, stream, s, state);
      launch(move_kernel, dim3(static_cast<unsigned>(k), 2), block, 0, stream, s, state, next);
      launch(rescue_kernel, dim3(static_cast<unsigned>(k)), block, 0, stream, s, state);
      continue;
    }
    PYDET_DISPATCH_FLOATING(dtype, "anchor_kmeans", [&] {
      launch(finish_kernel<scalar_t>, dim3(static_cast<unsigned>((k + kThreads - 1) / kThreads)), block, 0, stream, s,
             state, anchors.mutable_data_ptr<scalar_t>(), average_iou.mutable_data_ptr<scalar_t>());
    });
    return {anchors, average_iou};
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("anchor_kmeans", TORCH_BOX(&anchor_kmeans_cuda)); }

}  // namespace pydet
