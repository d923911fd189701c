// One kernel that calls what tests/cuda_on_cpu/cuda_utils.cuh supplies, for tests/test_cuda_built_ins.py.
#include "cuda_utils.cuh"

namespace pydet {
namespace {

constexpr int kColumns = 32;
constexpr unsigned kAll = 0xffffffffu;

__global__ void built_ins_kernel(const int* in, int64_t* out, int* totals, unsigned long long* wide_totals,
                                 float* float_totals) {
  const int t = static_cast<int>(threadIdx.x), x = in[t];
  const unsigned u = static_cast<unsigned>(x);
  const long long wide = static_cast<long long>(x) * 65537;
  int64_t* row = out + static_cast<int64_t>(t) * kColumns;
  int c = 0;
  row[c++] = __shfl_sync(kAll, x, 37);
  row[c++] = __shfl_sync(kAll, x, 3, 8);
  row[c++] = __shfl_up_sync(kAll, x, 3);
  row[c++] = __shfl_up_sync(kAll, wide, 3, 16);
  row[c++] = __shfl_down_sync(kAll, x, 30);
  row[c++] = __shfl_down_sync(kAll, x, 5, 8);
  row[c++] = __shfl_xor_sync(kAll, x, 17);
  row[c++] = __shfl_xor_sync(kAll, x, 9, 8);
  row[c++] = __float_as_int(__shfl_xor_sync(kAll, static_cast<float>(x), 1));
  const bool even = t % 2 == 0;  // two halves of a warp, each with a mask of its own
  const unsigned half = even ? 0x55555555u : 0xaaaaaaaau;
  row[c++] = even ? __ballot_sync(half, x & 1) : __ballot_sync(half, x & 2);
  row[c++] = __any_sync(kAll, x % 32 == 0);
  row[c++] = __all_sync(kAll, x % 32 != 0);
  row[c++] = __match_any_sync(kAll, x & 7);
  row[c++] = __syncthreads_count(x & 1);
  row[c++] = __syncthreads_or(t == 40 && (x & 1));
  row[c++] = __syncthreads_and(t != 40 || (x & 1));
  row[c++] = __popc(u);
  row[c++] = __popcll(wide);
  row[c++] = __ffs(x);
  row[c++] = __ffsll(wide);
  row[c++] = __clz(x);
  row[c++] = __clzll(wide);
  row[c++] = __brev(u);
  row[c++] = static_cast<int64_t>(__brevll(wide));
  row[c++] = min(x, 1000) + max(x, -1000);
  row[c++] = max(x, 5LL);
  row[c++] = atomicAdd(totals, 1);
  atomicMax(totals + 1, x);
  atomicMin(totals + 2, x);
  atomicOr(totals + 3, x);
  atomicAnd(totals + 4, x);
  atomicCAS(totals + 5, t, t + 1);
  atomicExch(totals + 6, x);
  atomicMax(wide_totals, static_cast<unsigned long long>(u));
  atomicAdd(wide_totals + 1, static_cast<unsigned long long>(u));
  atomicAdd(float_totals, 0.5f);
}

Tensor built_ins(const Tensor& in, const Tensor& totals, const Tensor& wide_totals, const Tensor& float_totals) {
  Tensor out = torch::stable::fill_(new_dense(in, {in.numel(), kColumns}, ScalarType::Long), 0.0);
  launch(built_ins_kernel, dim3(1), dim3(static_cast<unsigned>(in.numel())), 0, current_stream(in),
         in.const_data_ptr<int>(), out.mutable_data_ptr<int64_t>(), totals.mutable_data_ptr<int>(),
         reinterpret_cast<unsigned long long*>(wide_totals.mutable_data_ptr<int64_t>()),
         float_totals.mutable_data_ptr<float>());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydet, CUDA, m) { m.impl("_built_ins", TORCH_BOX(&built_ins)); }

}  // namespace pydet
