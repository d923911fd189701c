// Sorting (key, value) pairs of several problems at once, ascending, equal keys by value. How many pairs a problem has
// may be known on the device only.
//
// Every level merges 16 sorted runs: a pair counts in each of the other 15 how many come before it, by binary search,
// and goes to that place. All pairs do so at once, and neighbours take the same path through the same lines of the
// cache. A block sorts 1,024 pairs in shared memory (runs of 1, 16 and 256); beyond that a factor of 16 is a launch:
// two launches sort 16,384 pairs, three 262,144. A radix sort of 64 bits takes eight passes whatever their number is.
#pragma once

#include "../math/nms.h"
#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr unsigned kSortTile = 1024;  // threads of a block, one pair each
constexpr unsigned kFanInBits = 4, kTileBits = 10;
constexpr unsigned kMergeBlock = 256;

// Problems of up to `capacity` items: counts[problem] of them or, without `counts`, that many; no more than `most`.
struct Problems {
  int64_t number, capacity;
  const unsigned* counts;
  unsigned most;

  __device__ unsigned count(int64_t problem) const { return counts && counts[problem] < most ? counts[problem] : most; }
};

// Blocks of a launch: those of the first `size` items of all problems, then those of the next, so that a problem's best
// items come first.
inline int64_t blocks_of(const Problems& problems, int64_t size) {
  return problems.number * ((problems.capacity + size - 1) / size);
}

struct BlockPlace {
  unsigned problem, first;
};

__device__ inline BlockPlace place_of_block(const Problems& problems, unsigned size) {
  const unsigned number = static_cast<unsigned>(problems.number);
  return {blockIdx.x % number, blockIdx.x / number * size};
}

struct SortPair {
  uint64_t key;
  uint32_t value;
};

// Where pair i goes when the runs of its group, of 2^run_bits pairs each, become one.
__device__ inline unsigned merged_position(const uint64_t* keys, const uint32_t* values, unsigned n, unsigned run_bits,
                                           unsigned i, const SortPair& pair) {
  const unsigned group_bits = run_bits + kFanInBits;
  const uint64_t run = uint64_t{1} << run_bits, own = uint64_t{i} >> run_bits << run_bits;
  const uint64_t first = uint64_t{i} >> group_bits << group_bits, behind = first + (run << kFanInBits);
  unsigned position = static_cast<unsigned>(first + (i - own));
  for (uint64_t begin = first; begin < behind && begin < n; begin += run) {
    if (begin == own) continue;
    unsigned low = static_cast<unsigned>(begin), high = begin + run < n ? static_cast<unsigned>(begin + run) : n;
    while (low < high) {
      const unsigned middle = low + (high - low) / 2;
      const uint64_t key = keys[middle];
      const bool before = key < pair.key || (key == pair.key && values[middle] < pair.value);
      low = before ? middle + 1 : low;
      high = before ? high : middle;
    }
    position += low - static_cast<unsigned>(begin);
  }
  return position;
}

// source(problem, i) makes pair i.
template <typename Source>
__global__ void __launch_bounds__(kSortTile)
    sort_tiles_kernel(Source source, Problems problems, uint64_t* keys, uint32_t* values) {  // [problems, capacity]
  __shared__ uint64_t tile_keys[kSortTile];
  __shared__ uint32_t tile_values[kSortTile];
  const BlockPlace place = place_of_block(problems, kSortTile);
  const unsigned all = problems.count(place.problem), i = threadIdx.x;
  if (place.first >= all) return;
  const unsigned n = all - place.first < kSortTile ? all - place.first : kSortTile;
  SortPair pair{};
  if (i < n) {
    pair = source(place.problem, place.first + i);
    tile_keys[i] = pair.key;
    tile_values[i] = pair.value;
  }
  __syncthreads();
  unsigned position = i;
  for (unsigned run_bits = 0; run_bits < kTileBits; run_bits += kFanInBits) {
    if (i < n) position = merged_position(tile_keys, tile_values, n, run_bits, position, pair);
    __syncthreads();
    if (i < n) {
      tile_keys[position] = pair.key;
      tile_values[position] = pair.value;
    }
    __syncthreads();
  }
  if (i < n) {
    const int64_t out = place.problem * problems.capacity + place.first + i;
    keys[out] = tile_keys[i];
    values[out] = tile_values[i];
  }
}

__global__ void __launch_bounds__(kMergeBlock)
    merge_runs_kernel(Problems problems, unsigned run_bits, const uint64_t* keys, const uint32_t* values,
                      uint64_t* merged_keys, uint32_t* merged_values) {  // [problems, capacity]
  const BlockPlace place = place_of_block(problems, kMergeBlock);
  const unsigned i = place.first + threadIdx.x, n = problems.count(place.problem);
  if (i >= n) return;
  const int64_t offset = place.problem * problems.capacity;
  const SortPair pair{keys[offset + i], values[offset + i]};
  const unsigned position = merged_position(keys + offset, values + offset, n, run_bits, i, pair);
  merged_keys[offset + position] = pair.key;
  merged_values[offset + position] = pair.value;
}

// Room to sort in: [problems, capacity] each.
struct SortMemory {
  uint64_t* keys[2];
  uint32_t* values[2];
};

// Which of the two pairs of arrays the sorted one is.
template <typename Source>
int sort_pairs(const Source& source, const Problems& problems, const SortMemory& memory, cudaStream_t stream) {
  const auto grid = [&](int64_t size) { return dim3(static_cast<unsigned>(blocks_of(problems, size))); };
  launch(sort_tiles_kernel<Source>, grid(kSortTile), dim3(kSortTile), 0, stream, source, problems, memory.keys[0],
         memory.values[0]);
  int sorted = 0;
  for (unsigned run_bits = kTileBits; int64_t{1} << run_bits < problems.capacity; run_bits += kFanInBits) {
    launch(merge_runs_kernel, grid(kMergeBlock), dim3(kMergeBlock), 0, stream, problems, run_bits, memory.keys[sorted],
           memory.values[sorted], memory.keys[1 - sorted], memory.values[1 - sorted]);
    sorted = 1 - sorted;
  }
  return sorted;
}

}  // namespace
}  // namespace pydet
