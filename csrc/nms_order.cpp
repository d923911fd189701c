#include "nms_order.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "math/nms.h"

#define PYDET_KERNELS "cpu/nms_order.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

// Sorts (key << 32 | index) by the 32 bits of the key, stably.
template <int kBits>
void radix_sort(std::vector<uint64_t>& items) {
  constexpr int kPasses = (32 + kBits - 1) / kBits;
  constexpr uint32_t kBuckets = 1u << kBits, kMask = kBuckets - 1;
  std::vector<uint64_t> other(items.size());
  std::vector<uint32_t> counts(kPasses * kBuckets);
  for (const uint64_t item : items) {
    for (int pass = 0; pass < kPasses; ++pass) ++counts[pass * kBuckets + ((item >> (32 + pass * kBits)) & kMask)];
  }
  for (int pass = 0; pass < kPasses; ++pass) {
    uint32_t* count = counts.data() + pass * kBuckets;
    const int shift = 32 + pass * kBits;
    if (count[(items[0] >> shift) & kMask] == items.size()) continue;  // all alike here
    uint32_t sum = 0;
    for (uint32_t bucket = 0; bucket < kBuckets; ++bucket) {
      const uint32_t here = count[bucket];
      count[bucket] = sum;
      sum += here;
    }
    for (const uint64_t item : items) other[count[(item >> shift) & kMask]++] = item;
    items.swap(other);
  }
}

// Keys of 32 bits that order as far as they go.
inline uint32_t coarse_key(float score) { return descending_key(score); }
inline uint32_t coarse_key(double score) { return static_cast<uint32_t>(descending_key(score) >> 32); }

// A histogram of the keys says below which one the best `count` lie; whatever shares its bucket comes along.
template <typename T>
std::vector<uint32_t> best_of(const T* scores, int64_t n, int64_t count) {
  std::vector<uint32_t> order;
  if (n <= 1024 || count > n / 4) {
    order.resize(n);
    order_by_score(scores, n, order.data());
    return order;
  }
  std::vector<uint32_t> keys(n);
  uint32_t lowest = UINT32_MAX, highest = 0;
  for (int64_t i = 0; i < n; ++i) {
    keys[i] = coarse_key(scores[i]);
    lowest = std::min(lowest, keys[i]);
    highest = std::max(highest, keys[i]);
  }
  constexpr uint32_t kBuckets = 4096;
  int shift = 0;
  while ((highest - lowest) >> shift >= kBuckets) ++shift;
  uint32_t counts[kBuckets] = {};
  for (int64_t i = 0; i < n; ++i) ++counts[(keys[i] - lowest) >> shift];
  uint32_t last = 0;
  for (int64_t sum = counts[0]; sum < count; sum += counts[last]) ++last;
  std::vector<uint32_t> positions;
  std::vector<T> best;
  for (int64_t i = 0; i < n; ++i) {
    if ((keys[i] - lowest) >> shift > last) continue;
    positions.push_back(static_cast<uint32_t>(i));
    best.push_back(scores[i]);
  }
  order.resize(best.size());
  order_by_score(best.data(), static_cast<int64_t>(best.size()), order.data());
  for (uint32_t& rank : order) rank = positions[rank];
  return order;
}

}  // namespace

std::vector<uint32_t> best_by_score(const float* scores, int64_t n, int64_t count) { return best_of(scores, n, count); }
std::vector<uint32_t> best_by_score(const double* scores, int64_t n, int64_t count) {
  return best_of(scores, n, count);
}

void order_by_score(const float* scores, int64_t n, uint32_t* order) {
  constexpr int64_t kCounted = 256;
  if (n <= kCounted) {
    uint32_t keys[kCounted];
    for (int64_t i = 0; i < n; ++i) keys[i] = descending_key(scores[i]);
    PYDET_CPU_CALL(order_by_counting, keys, n, order);
    return;
  }
  std::vector<uint64_t> items(n);
  for (int64_t i = 0; i < n; ++i) items[i] = uint64_t{descending_key(scores[i])} << 32 | static_cast<uint32_t>(i);
  if (n < 4096) {
    radix_sort<8>(items);
  } else {
    radix_sort<11>(items);
  }
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<uint32_t>(items[i]);
}

void order_by_score(const double* scores, int64_t n, uint32_t* order) {
  std::vector<uint64_t> keys(n);
  for (int64_t i = 0; i < n; ++i) {
    keys[i] = descending_key(scores[i]);
    order[i] = static_cast<uint32_t>(i);
  }
  std::stable_sort(order, order + n, [&](uint32_t a, uint32_t b) { return keys[a] < keys[b]; });
}

}  // namespace pydet
