// Small kernels with a fault, and the same kernels without it: what tests/test_planted_faults.py shows to be found.
#include <map>

#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr int kThreads = 64;
constexpr unsigned kAll = 0xffffffffu;

// Arguments of every kernel. `right` is whether it is without its fault.
struct Data {
  const float* in;  // [n]
  int64_t n;
  float* out;        // [n]
  unsigned* ticket;  // 0 at first
  bool right;

  __device__ float at(int64_t i) const { return i < n ? in[i] : 0.0f; }
};

__device__ int64_t index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

// Each block's values the other way round, through shared memory.
__global__ void missing_barrier(Data d) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = d.at(index());
  if (d.right) __syncthreads();
  if (index() < d.n) d.out[index()] = tile[kThreads - 1 - threadIdx.x];
}

// The same of two arrays with one tile: the second filling has to wait until the first was read.
__global__ void missing_second_barrier(Data d) {
  __shared__ float tile[kThreads];
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = round + d.at(index());
    __syncthreads();
    sum += tile[kThreads - 1 - threadIdx.x];
    if (d.right) __syncthreads();
  }
  if (index() < d.n) d.out[index()] = sum;
}

// Each thread has a byte; a second one is its neighbour's.
__global__ void bytes_that_overlap(Data d) {
  __shared__ unsigned char marks[kThreads + 1];
  marks[threadIdx.x] = 1;
  if (!d.right) marks[threadIdx.x + 1] = 1;
  __syncthreads();
  if (index() < d.n) d.out[index()] = marks[kThreads - 1 - threadIdx.x];
}

// As missing_barrier for a warp. The vote brings the lanes together and orders no memory.
__global__ void missing_syncwarp(Data d) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = d.at(index());
  const unsigned vote = __ballot_sync(kAll, 1);
  if (d.right) __syncwarp();
  if (index() < d.n) d.out[index()] = tile[threadIdx.x ^ 31] + (vote == kAll ? 0.0f : 1.0f);
}

__device__ float warp_sum(float x, unsigned mask) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_down_sync(mask, x, step);
  return __shfl_sync(mask, x, 0);
}

__global__ void lane_outside_of_its_mask(Data d) {
  const float sum = warp_sum(d.at(index()), d.right ? kAll : 0xffffu);
  if (index() < d.n) d.out[index()] = sum;
}

__global__ void mask_of_lanes_that_left(Data d) {
  if (!d.right && index() >= d.n) return;
  const float sum = warp_sum(d.at(index()), kAll);
  if (index() < d.n) d.out[index()] = sum;
}

__global__ void barrier_that_some_never_reach(Data d) {
  __shared__ float first;
  if (!d.right && index() >= d.n) return;
  if (threadIdx.x == 0) first = d.at(index());
  __syncthreads();
  if (index() < d.n) d.out[index()] = first;
}

__global__ void two_barriers_for_one(Data d) {
  if (d.right || threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  if (index() < d.n) d.out[index()] = d.at(index());
}

// CUDA does not clear shared memory.
__global__ void shared_memory_without_a_value(Data d) {
  PYDET_DYNAMIC_SHARED(float, sum);
  __shared__ float more;
  if (d.right && threadIdx.x == 0) sum[0] = more = 0;
  __syncthreads();
  if (index() < d.n) d.out[index()] = d.at(index()) + sum[0] + more;
}

// Every block counts, all in one place.
__global__ void two_blocks_write_one_place(Data d) {
  if (threadIdx.x == 0) {
    if (d.right) {
      atomicAdd(d.out, 1.0f);
    } else {
      d.out[0] += 1;
    }
  }
}

// A running sum over the blocks that relies on their order.
__global__ void block_reads_what_another_wrote(Data d) {
  if (threadIdx.x == 0) {
    const float before = !d.right && blockIdx.x > 0 ? d.out[blockIdx.x - 1] : 0.0f;
    d.out[blockIdx.x] = before + d.at(index());
  }
}

// The last block to come sums up what all have left: they must have made it visible before they say so.
__global__ void missing_fence(Data d) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    d.out[blockIdx.x] = d.at(index());
    if (d.right) __threadfence();
    last = atomicAdd(d.ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x != 0) return;
  float sum = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += d.out[b];
  d.out[0] = sum;
  *d.ticket = 0;  // for the next launch
}

// No race, but where a value lands is decided by who comes first.
__global__ void order_decides(Data d) {
  if (index() >= d.n) return;
  d.out[d.right ? index() : static_cast<int64_t>(atomicAdd(d.ticket, 1u))] = d.in[index()];
}

__global__ void read_beyond_the_end(Data d) {
  if (index() < d.n) d.out[index()] = d.in[index() + (d.right ? 0 : 1)];
}

__global__ void write_beyond_shared_memory(Data d) {
  __shared__ float tile[kThreads];
  float* const begin = tile;  // -fsanitize=bounds does not see the array any more
  begin[threadIdx.x + (d.right ? 0 : 1)] = d.at(index());
  __syncthreads();
  if (index() < d.n) d.out[index()] = tile[threadIdx.x];
}

__global__ void write_beyond_dynamic_shared_memory(Data d) {
  PYDET_DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x + (d.right ? 0 : 1)] = d.at(index());
  __syncthreads();
  if (index() < d.n) d.out[index()] = tile[threadIdx.x];
}

__global__ void misaligned_vector(Data d) {
  if (threadIdx.x == 0 && d.n > 8) {
    const float4 v = *reinterpret_cast<const float4*>(d.in + (d.right ? 4 : 1));
    d.out[0] = v.x;
  }
}

#define FAULT(name) {#name, name}
const std::map<std::string, void (*)(Data)> kFaults = {
    FAULT(missing_barrier),
    FAULT(missing_second_barrier),
    FAULT(bytes_that_overlap),
    FAULT(missing_syncwarp),
    FAULT(lane_outside_of_its_mask),
    FAULT(mask_of_lanes_that_left),
    FAULT(barrier_that_some_never_reach),
    FAULT(two_barriers_for_one),
    FAULT(shared_memory_without_a_value),
    FAULT(two_blocks_write_one_place),
    FAULT(block_reads_what_another_wrote),
    FAULT(missing_fence),
    FAULT(order_decides),
    FAULT(read_beyond_the_end),
    FAULT(write_beyond_shared_memory),
    FAULT(write_beyond_dynamic_shared_memory),
    FAULT(misaligned_vector),
};

Tensor planted(const Tensor& in, std::string fault, bool right) {
  Tensor out = torch::stable::fill_(new_dense(in, {in.numel()}, ScalarType::Float), 0.0);
  Tensor ticket = torch::stable::fill_(new_dense(in, {1}, ScalarType::Int), 0.0);
  const dim3 grid(static_cast<unsigned>((in.numel() + kThreads - 1) / kThreads));
  launch(kFaults.at(fault), grid, dim3(kThreads), kThreads * sizeof(float), current_stream(in),
         Data{in.const_data_ptr<float>(), in.numel(), out.mutable_data_ptr<float>(),
              reinterpret_cast<unsigned*>(ticket.mutable_data_ptr<int>()), right});
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("_planted", TORCH_BOX(&planted)); }

}  // namespace pydet
