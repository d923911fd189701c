// multiclass_nms: select the best scores of each image (multiclass_select.cuh), suppress (nms_suppress.cuh), take the
// first max_per_image, in launches whose number and sizes depend on no value: no synchronisation, and a CUDA graph can
// hold them. Memory: with pre_nms_top_k about 200 bytes a score of it, else what `room` says, for each image.
#include <optional>
#include <tuple>

#include "../checks/nms.h"
#include "cuda_utils.cuh"
#include "multiclass_collect.cuh"

namespace pydet {
namespace {

constexpr int kRounds = 2;  // of selection, where the first may not fill the output
constexpr unsigned kWanted = 4096;

struct MulticlassOptions {
  double score_threshold, iou_threshold;
  int64_t max_per_image;
  std::optional<int64_t> top_k;
  bool class_agnostic, multi_label;
};

struct Detections {
  Tensor boxes, scores, labels, rows, count;
};

// A block an image. Where all scores fit, there is nothing to look for.
template <typename T, typename In>
__global__ void __launch_bounds__(kScanBlock) start_kernel(Selection<T, In> s, bool all_fit) {
  const int64_t image = blockIdx.x;
  for (unsigned bin = threadIdx.x; bin < kBins; bin += kScanBlock) s.bins[image * kBins + bin] = 0;
  if (threadIdx.x > 0) return;
  s.counts[image] = 0;
  auto& state = s.states[image];
  state = {};
  state.search(s.guess(), s.limit());
  if (!all_fit) return;
  state.end = state.limit;
  state.last = true;
  state.phase = Phase::selected;
}

template <typename T, typename In>
struct CandidateKeys {
  Selection<T, In> s;

  __device__ SortPair operator()(unsigned image, unsigned i) const {
    return {s.keys[image * s.capacity + i], s.indices[image * s.capacity + i]};
  }
};

template <typename T>
struct RankedCandidates {
  CandidateBoxes<T> boxes;
  const uint32_t* order;  // [images, capacity]
  int64_t capacity;
  NmsRule<T> rule;
  NmsBoxes<T> ranked;

  __device__ SortPair operator()(unsigned image, unsigned rank) const {
    const unsigned index = order[image * capacity + rank];
    return ranked.of(image, capacity).add(rank, boxes.box(image, index), boxes.segment(image, index), rule);
  }
};

inline dim3 blocks(int64_t items, int64_t of_block) {
  return dim3(static_cast<unsigned>((items + of_block - 1) / of_block));
}

template <typename T, typename In>
void detect(const ScoreView<In>& scores, const CandidateBoxes<T>& boxes, int64_t images, const MulticlassOptions& o,
            const Tensor& like, const DetectionMemory& out, cudaStream_t stream) {
  using S = typename ScoreView<In>::Score;
  const int64_t total = int64_t{scores.rows} * scores.classes, most = std::min(o.max_per_image, total);
  const int64_t top_k = std::min(o.top_k.value_or(total), total);
  const int64_t wanted = o.top_k ? top_k : std::min(std::max<int64_t>(2 * most, kWanted), total);
  const int64_t room = std::min(2 * wanted, total);
  const int rounds = o.top_k || room == total ? 1 : kRounds;

  Selection<T, In> s{};
  s.scores = scores;
  s.boxes = boxes;
  s.threshold = static_cast<S>(o.score_threshold);
  s.rule = nms_rule<T>(o.iou_threshold);
  s.wanted = static_cast<unsigned>(wanted);
  s.room = static_cast<unsigned>(room);
  s.capacity = room + (rounds > 1 ? most : 0);
  const int64_t useful = (total + kScanBlock * 16 - 1) / (kScanBlock * 16), resident = 4 * multiprocessors();
  s.parts = static_cast<unsigned>(std::max<int64_t>(1, std::min(useful, resident / images)));
  s.kept.most = most;
  const Tensor selection_memory = allocate(like, [&](Workspace& workspace) {
    workspace.cut(s.states, images);
    workspace.cut(s.bins, images * kBins);
    workspace.cut(s.kept.indices, images * most);
    workspace.cut(s.kept.boxes, images * most);
    workspace.cut(s.kept.segments, images * most);
    workspace.cut(s.counts, images);
    workspace.cut(s.keys, images * s.capacity);
    workspace.cut(s.indices, images * s.capacity);
  });
  launch(start_kernel<T, In>, dim3(static_cast<unsigned>(images)), dim3(kScanBlock), 0, stream, s, room == total);
  if (total > 0) {
    const NmsMemory<T> memory(like, images, s.capacity, !o.class_agnostic);
    const Problems candidates{images, s.capacity, s.counts, static_cast<unsigned>(s.capacity)};
    const Problems ranked{images, s.capacity, s.counts, static_cast<unsigned>(std::min(top_k, s.capacity))};
    const dim3 scan(static_cast<unsigned>(images * s.parts)), of_images(static_cast<unsigned>(images));
    // Each pass divides the range of places by 2,047 at least, and one may find that scores lie above 1.
    const int passes = room == total ? 0 : sizeof(S) == 4 ? 7 : 10;
    for (int round = 0; round < rounds; ++round) {
      for (int pass = 0; pass < passes; ++pass) {
        launch(count_scores_kernel<T, In>, scan, dim3(kScanBlock), 0, stream, s);
      }
      launch(take_scores_kernel<T, In>, scan, dim3(kScanBlock), 0, stream, s);
      const uint32_t* const order = memory.sort_by_score(CandidateKeys<T, In>{s}, candidates, stream);
      memory.suppress(RankedCandidates<T>{boxes, order, s.capacity, s.rule, memory.boxes}, ranked, s.rule, stream);
      launch(collect_kernel<T, In>, of_images, dim3(kBlock), 0, stream, s, ranked.most, memory.boxes, order);
    }
    if (rounds > 1) launch(finish_kernel<T, In>, of_images, dim3(kScanBlock), 0, stream, s);
  }
  launch(write_kernel<T, In>, blocks(images * o.max_per_image, kBlock), dim3(kBlock), 0, stream, s, images, out);
}

template <typename T, typename In>
void detect_labels(const ScoreView<In>& scores, CandidateBoxes<T> boxes, int64_t images, const MulticlassOptions& o,
                   const Tensor& like, const DetectionMemory& out, cudaStream_t stream) {
  using S = typename ScoreView<In>::Score;
  if (o.multi_label || scores.classes == 0) return detect(scores, boxes, images, o, like, out, stream);
  const int64_t rows = images * scores.rows;
  S* best_scores = nullptr;
  int* best_labels = nullptr;
  const Tensor memory = allocate(like, [&](Workspace& workspace) {
    workspace.cut(best_scores, rows);
    workspace.cut(best_labels, rows);
  });
  if (rows > 0) {
    const int64_t resident = 8 * multiprocessors(), useful = (rows + kRowBlock / 32 - 1) / (kRowBlock / 32);
    launch(best_of_rows_kernel<In, S>, dim3(static_cast<unsigned>(std::min(useful, resident))), dim3(kRowBlock), 0,
           stream, scores, images, static_cast<S>(o.score_threshold), best_scores, best_labels);
  }
  boxes.labels = best_labels;
  detect(ScoreView<S>{best_scores, scores.rows, 1, scores.rows, 1}, boxes, images, o, like, out, stream);
}

Detections multiclass_nms_of(const Tensor& boxes, const Tensor& scores, bool per_class, const MulticlassOptions& o) {
  const DeviceGuard guard(scores.get_device_index());
  const int64_t images = scores.size(0), k = o.max_per_image;
  Detections out{new_dense(boxes, {images, k, 4}, boxes.scalar_type()),
                 new_dense(boxes, {images, k}, scores.scalar_type()), new_dense(boxes, {images, k}, ScalarType::Long),
                 new_dense(boxes, {images, k}, ScalarType::Long), new_dense(boxes, {images}, ScalarType::Long)};
  if (images == 0) return out;
  const Tensor dense_boxes = as_contiguous(boxes, boxes.scalar_type());
  // Classes side by side are read where they lie, as in predictions[..., 5:].
  const Tensor read_scores = scores.stride(2) == 1 ? scores : torch::stable::contiguous(scores);
  const cudaStream_t stream = current_stream(scores);
  const DetectionMemory memory{static_cast<const uint16_t*>(dense_boxes.const_data_ptr()),
                               static_cast<const uint16_t*>(read_scores.const_data_ptr()),
                               static_cast<uint16_t*>(out.boxes.mutable_data_ptr()),
                               static_cast<uint16_t*>(out.scores.mutable_data_ptr()),
                               out.labels.mutable_data_ptr<int64_t>(),
                               out.rows.mutable_data_ptr<int64_t>(),
                               out.count.mutable_data_ptr<int64_t>(),
                               k,
                               read_scores.stride(0),
                               read_scores.stride(1),
                               static_cast<int>(2 * boxes.element_size()),
                               static_cast<int>(scores.element_size() / 2)};
  const unsigned rows = static_cast<unsigned>(scores.size(1)), classes = static_cast<unsigned>(scores.size(2));
  PYDET_DISPATCH_FLOATING(scores.scalar_type(), "multiclass_nms", [&] {
    const ScoreView<scalar_t> view{read_scores.const_data_ptr<scalar_t>(), read_scores.stride(0), read_scores.stride(1),
                                   rows, classes};
    const auto detect_as = [&](auto zero) {
      const CandidateBoxes<decltype(zero)> candidates{
          dense_boxes.const_data_ptr(), boxes.scalar_type(), rows, classes, per_class, o.class_agnostic, nullptr};
      detect_labels(view, candidates, images, o, boxes, memory, stream);
    };
    boxes.scalar_type() == ScalarType::Double ? detect_as(0.0) : detect_as(0.0f);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> multiclass_nms_cuda(
    const Tensor& boxes,   // [B, N, 4] or [B, N, C, 4] xyxy
    const Tensor& scores,  // [B, N, C]
    double score_threshold, double iou_threshold, int64_t max_per_image, std::optional<int64_t> pre_nms_top_k,
    bool class_agnostic, bool multi_label) {
  const bool per_class =
      check_multiclass_nms(boxes, scores, score_threshold, iou_threshold, max_per_image, pre_nms_top_k);
  const Detections found =
      multiclass_nms_of(boxes, scores, per_class,
                        {score_threshold, iou_threshold, max_per_image, pre_nms_top_k, class_agnostic, multi_label});
  return {found.boxes, found.scores, found.labels, found.rows, found.count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("multiclass_nms", TORCH_BOX(&multiclass_nms_cuda)); }

}  // namespace pydet
