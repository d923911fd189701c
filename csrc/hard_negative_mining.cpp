#include <algorithm>
#include <cstring>
#include <vector>

#include "checks/hard_negative_mining.h"
#include "math/hard_negative_mining.h"
#include "widen.h"

#define PYDET_KERNELS "cpu/hard_negative_mining.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kBuckets = 1 << kMiningDigit;

template <typename Key>
struct MiningScratch {
  std::vector<Key> keys, left;
  std::vector<uint32_t> counts;
  explicit MiningScratch(int64_t anchors) : keys(anchors), left(anchors), counts(2 * kBuckets) {}
};

// The largest digit above and in whose bucket `count` keys lie; count becomes how many of them that bucket gives.
template <typename Key>
Key bucket_of(const Key* keys, int64_t n, int shift, int64_t& count, std::vector<uint32_t>& counts) {
  std::fill(counts.begin(), counts.end(), 0);
  uint32_t* odd = counts.data() + kBuckets;  // neighbours are often alike: no increment waits for the one before
  for (int64_t i = 0; i + 1 < n; i += 2) {
    ++counts[(keys[i] >> shift) & (kBuckets - 1)];
    ++odd[(keys[i + 1] >> shift) & (kBuckets - 1)];
  }
  if (n % 2 != 0) ++counts[(keys[n - 1] >> shift) & (kBuckets - 1)];
  int64_t bucket = kBuckets - 1;
  for (;; --bucket) {
    const int64_t here = counts[bucket] + odd[bucket];
    if (here >= count) return static_cast<Key>(bucket);
    count -= here;
  }
}

// The last key taken: `taken` of the `equal` ones there are.
template <typename Key>
struct LastKey {
  Key key;
  int64_t taken, equal;
};

// The count-th largest key, digit by digit: only the keys that share the digits so far are looked at again.
template <typename Key>
LastKey<Key> last_key(MiningScratch<Key>& scratch, int64_t count) {
  const Key* keys = scratch.keys.data();
  LastKey<Key> last{0, count, static_cast<int64_t>(scratch.keys.size())};
  for (int shift = static_cast<int>(sizeof(Key)) * 8; shift > 0;) {
    shift = std::max(shift - kMiningDigit, 0);
    const Key digit = bucket_of(keys, last.equal, shift, last.taken, scratch.counts);
    last.key |= digit << shift;
    int64_t left = 0;
    for (int64_t i = 0; i < last.equal; ++i) {
      const Key key = keys[i];
      scratch.left[left] = key;
      left += ((key >> shift) & (kBuckets - 1)) == digit;
    }
    keys = scratch.left.data();
    last.equal = left;
  }
  return last;
}

template <typename T, typename In>
void mine_image(const In* loss, const bool* positive, int64_t anchors, double ratio,
                MiningScratch<MiningKey<T>>& scratch, bool* selected) {
  const int64_t positives = PYDET_CPU_CALL(mining_keys<T>, loss, positive, anchors, scratch.keys.data());
  const int64_t count = negatives_wanted(ratio, positives, anchors);
  if (count == 0) {
    std::memset(selected, 0, anchors);
    return;
  }
  const LastKey<MiningKey<T>> last = last_key(scratch, count);
  int64_t end = anchors;
  if (last.taken < last.equal) {  // the first of the equal ones
    end = 0;
    for (int64_t left = last.taken; left > 0; ++end) left -= scratch.keys[end] == last.key;
  }
  PYDET_CPU_CALL(mining_mask, scratch.keys.data(), anchors, last.key, end, selected);
}

Tensor hard_negative_mining_cpu(const Tensor& loss,      // [..., A]
                                const Tensor& positive,  // [..., A]
                                double ratio) {
  check_hard_negative_mining(loss, positive, ratio);
  Tensor out = new_dense(loss, shape_vector(loss), ScalarType::Bool);
  if (out.numel() == 0) return out;
  const Tensor losses = as_contiguous(loss, loss.scalar_type());
  const Tensor flags = as_contiguous(positive, ScalarType::Bool);
  const int64_t anchors = loss.size(-1);
  PYDET_DISPATCH_FLOATING(loss.scalar_type(), "hard_negative_mining", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* loss_data = losses.const_data_ptr<scalar_t>();
    const bool* flag_data = flags.const_data_ptr<bool>();
    bool* selected = out.mutable_data_ptr<bool>();
    torch::stable::parallel_for(0, out.numel() / anchors, 1, [&](int64_t begin, int64_t end) {
      MiningScratch<MiningKey<T>> scratch(anchors);
      for (int64_t image = begin; image < end; ++image) {
        const int64_t first = image * anchors;
        mine_image<T>(loss_data + first, flag_data + first, anchors, ratio, scratch, selected + first);
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("hard_negative_mining(Tensor loss, Tensor positive, float ratio=3.) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("hard_negative_mining", TORCH_BOX(&hard_negative_mining_cpu)); }

}  // namespace pydet
