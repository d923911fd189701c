// hard_negative_mining: a block an image, in one launch. The last loss taken is found digit by digit from histograms in
// shared memory, so that an image is read once for every 11 bits of a loss and once to write the mask, from the L2
// cache after the first time. Counts are integers: their order does not matter.
#include "../checks/hard_negative_mining.h"
#include "../math/hard_negative_mining.h"
#include "../widen.h"
#include "block_sum.cuh"

namespace pydet {
namespace {

constexpr unsigned kThreads = 1024;
constexpr unsigned kBatch = 4;  // loads of a thread under way: a block alone must hide their latency
constexpr unsigned kBuckets = 1u << kMiningDigit;
static_assert(kBuckets == 2 * kThreads, "a thread looks at two buckets");
constexpr unsigned kAll = 0xffffffffu;

// The bucket in which the `wanted`-th largest lies, how many of it are wanted, and how many there are.
struct Bucket {
  unsigned digit, taken, equal;
};

// All threads call it; one writes.
__device__ void find_bucket(const unsigned* counts, unsigned wanted, Bucket& bucket) {
  const unsigned digit = kBuckets - 1 - 2 * threadIdx.x;  // the first threads have the largest
  const unsigned upper = counts[digit], lower = counts[digit - 1];
  unsigned total;
  const unsigned before = sum_before(upper + lower, total);
  if (before < wanted && wanted - before <= upper) bucket = {digit, wanted - before, upper};
  if (before + upper < wanted && wanted - before - upper <= lower) {
    bucket = {digit - 1, wanted - before - upper, lower};
  }
}

// visit(index, whether there is such an anchor, its key, whether it is positive), a block together and in order.
template <typename T, typename In, typename Visit>
__device__ void for_each_anchor(const In* loss, const bool* positive, unsigned anchors, const Visit& visit) {
  for (unsigned begin = 0; begin < anchors; begin += kBatch * kThreads) {
    In losses[kBatch];
    bool flags[kBatch];
#pragma unroll
    for (unsigned b = 0; b < kBatch; ++b) {
      const unsigned i = begin + b * kThreads + threadIdx.x;
      losses[b] = i < anchors ? loss[i] : In(0);
      flags[b] = i < anchors && positive[i];
    }
#pragma unroll
    for (unsigned b = 0; b < kBatch; ++b) {
      const unsigned i = begin + b * kThreads + threadIdx.x;
      visit(i, i < anchors, mining_key(static_cast<T>(losses[b]), flags[b]), flags[b]);
    }
  }
}

template <typename T, typename In>
__global__ void __launch_bounds__(kThreads)
    hard_negative_mining_kernel(const In* loss, const bool* positive, unsigned anchors, double ratio, bool* selected) {
  using Key = MiningKey<T>;
  __shared__ unsigned counts[kBuckets];
  __shared__ Bucket bucket;
  const int64_t first = int64_t{blockIdx.x} * anchors;
  loss += first, positive += first, selected += first;

  Key last = 0, decided = 0;  // the digits so far of the last key taken, and a mask of them
  unsigned wanted = 0, equal = 0;
  for (int shift = static_cast<int>(sizeof(Key)) * 8; shift > 0;) {
    shift = shift > kMiningDigit ? shift - kMiningDigit : 0;
    for (unsigned b = threadIdx.x; b < kBuckets; b += kThreads) counts[b] = 0;
    __syncthreads();
    unsigned positives = 0;
    for_each_anchor<T>(loss, positive, anchors, [&](unsigned, bool inside, Key key, bool is_positive) {
      positives += is_positive;
      const bool counted = inside && (key & decided) == last;
      const unsigned digit = static_cast<unsigned>(key >> shift) & (kBuckets - 1);
      const unsigned here = __ballot_sync(kAll, counted);
      if (!counted) return;
      const unsigned alike = __match_any_sync(here, digit);  // one addition for all: many losses are nearly the same
      if (threadIdx.x % 32 + 1 == static_cast<unsigned>(__ffs(static_cast<int>(alike)))) {
        atomicAdd(&counts[digit], static_cast<unsigned>(__popc(alike)));
      }
    });
    if (decided == 0) {
      unsigned total;
      sum_before(positives, total);
      wanted = static_cast<unsigned>(negatives_wanted(ratio, total, anchors));
      if (wanted == 0) break;
    }
    __syncthreads();
    find_bucket(counts, wanted, bucket);
    __syncthreads();
    last |= static_cast<Key>(bucket.digit) << shift;
    decided |= static_cast<Key>(kBuckets - 1) << shift;
    wanted = bucket.taken;
    equal = bucket.equal;
  }

  // Of equal keys the first ones are taken; where not all of them are, they are counted in their order.
  const bool some = wanted < equal;
  unsigned seen = 0;
  for_each_anchor<T>(loss, positive, anchors, [&](unsigned i, bool inside, Key key, bool) {
    bool take = key >= last;
    if (some) {
      unsigned here;
      const unsigned before = sum_before<unsigned>(inside && key == last, here);
      take = key > last || (key == last && seen + before < wanted);
      seen += here;
    }
    if (inside) selected[i] = wanted > 0 && take;
  });
}

Tensor hard_negative_mining_cuda(const Tensor& loss,  // [..., A]
                                 const Tensor& positive,  // [..., A]
                                 double ratio) {
  check_hard_negative_mining(loss, positive, ratio);
  const DeviceGuard guard(loss.get_device_index());
  Tensor out = new_dense(loss, shape_vector(loss), ScalarType::Bool);
  if (out.numel() == 0) return out;
  const int64_t anchors = loss.size(-1), images = out.numel() / anchors;
  PYDET_CHECK(images <= INT32_MAX, "hard_negative_mining: loss must be of fewer images on a GPU, got ", shape_of(loss));
  const Tensor losses = as_contiguous(loss, loss.scalar_type());
  const Tensor flags = as_contiguous(positive, ScalarType::Bool);
  PYDET_DISPATCH_FLOATING(loss.scalar_type(), "hard_negative_mining", [&] {
    launch(hard_negative_mining_kernel<Wide<scalar_t>, scalar_t>, dim3(static_cast<unsigned>(images)), dim3(kThreads),
           0, current_stream(loss), losses.const_data_ptr<scalar_t>(), flags.const_data_ptr<bool>(),
           static_cast<unsigned>(anchors), ratio, out.mutable_data_ptr<bool>());
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("hard_negative_mining", TORCH_BOX(&hard_negative_mining_cuda)); }

}  // namespace pydet
