// Stands in for csrc/cuda/cuda_utils.cuh, so that g++ compiles csrc/cuda/*.cu and their kernels run on the CPU, with
// runtime.cpp. The functions are registered as CPU operators of another namespace.
#ifndef PYDET_CUDA_UTILS
#define PYDET_CUDA_UTILS

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime.h"
#include "torch_utils.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static
// One block runs at a time, in one thread of the operating system. Thread-local variables lie together, apart from all
// others; AddressSanitizer does not watch over them.
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static thread_local
#endif
#define PYDET_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(cuda_on_cpu::dynamic_shared())

#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) _STABLE_TORCH_LIBRARY_IMPL(pydet_cuda_on_cpu, CPU, m, STABLE_UID)

constexpr int warpSize = 32;

// Vectors, aligned as CUDA's, so that UndefinedBehaviorSanitizer sees an address that a GPU would refuse.
#define PYDET_VECTOR2(T, name, alignment) \
  struct alignas(alignment) name {        \
    T x, y;                               \
  };                                      \
  inline name make_##name(T x, T y) { return {x, y}; }
#define PYDET_VECTOR4(T, name, alignment) \
  struct alignas(alignment) name {        \
    T x, y, z, w;                         \
  };                                      \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
PYDET_VECTOR2(float, float2, 8)
PYDET_VECTOR2(double, double2, 16)
PYDET_VECTOR2(int, int2, 8)
PYDET_VECTOR2(unsigned, uint2, 8)
PYDET_VECTOR2(short, short2, 4)
PYDET_VECTOR2(unsigned short, ushort2, 4)
PYDET_VECTOR2(long long, longlong2, 16)
PYDET_VECTOR2(unsigned long long, ulonglong2, 16)
PYDET_VECTOR4(float, float4, 16)
PYDET_VECTOR4(int, int4, 16)
PYDET_VECTOR4(unsigned, uint4, 16)
PYDET_VECTOR4(short, short4, 8)
PYDET_VECTOR4(unsigned short, ushort4, 8)
PYDET_VECTOR4(char, char4, 4)
PYDET_VECTOR4(unsigned char, uchar4, 4)
#undef PYDET_VECTOR2
#undef PYDET_VECTOR4

// Barriers. The line is that of the kernel, for what is said when threads do not meet.
inline void __syncthreads(int line = __builtin_LINE()) { cuda_on_cpu::barrier(false, line); }
inline int __syncthreads_count(int p, int line = __builtin_LINE()) {
  return static_cast<int>(cuda_on_cpu::barrier(p != 0, line));
}
inline int __syncthreads_or(int p, int line = __builtin_LINE()) { return cuda_on_cpu::barrier(p != 0, line) != 0; }
inline int __syncthreads_and(int p, int line = __builtin_LINE()) { return cuda_on_cpu::barrier(p == 0, line) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  cuda_on_cpu::warp(cuda_on_cpu::WarpOperation::kSync, mask, 0, 0, line);
}
inline void __threadfence() { cuda_on_cpu::fence(); }
inline void __threadfence_block() {}

namespace cuda_on_cpu {

template <typename T>
inline T shuffle(unsigned mask, T value, unsigned source, int line) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4 && sizeof(T) <= 8, "what CUDA shuffles");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = warp(WarpOperation::kShuffle, mask, bits, source, line);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cuda_on_cpu

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, int line = __builtin_LINE()) {
  const unsigned w = static_cast<unsigned>(width), first = cuda_on_cpu::lane() & ~(w - 1);
  return cuda_on_cpu::shuffle(mask, value, first + (static_cast<unsigned>(source) & (w - 1)), line);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, int line = __builtin_LINE()) {
  const unsigned self = cuda_on_cpu::lane(), in_group = self & (static_cast<unsigned>(width) - 1);
  return cuda_on_cpu::shuffle(mask, value, delta <= in_group ? self - delta : self, line);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, int line = __builtin_LINE()) {
  const unsigned w = static_cast<unsigned>(width), self = cuda_on_cpu::lane();
  return cuda_on_cpu::shuffle(mask, value, delta < w - (self & (w - 1)) ? self + delta : self, line);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int flip, int width = warpSize, int line = __builtin_LINE()) {
  const unsigned w = static_cast<unsigned>(width), self = cuda_on_cpu::lane();
  const unsigned source = self ^ static_cast<unsigned>(flip), end = (self & ~(w - 1)) + w;
  return cuda_on_cpu::shuffle(mask, value, source < end ? source : self, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return static_cast<unsigned>(cuda_on_cpu::warp(cuda_on_cpu::WarpOperation::kBallot, mask, predicate != 0, 0, line));
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) == mask;
}
template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value, int line = __builtin_LINE()) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return static_cast<unsigned>(cuda_on_cpu::warp(cuda_on_cpu::WarpOperation::kMatch, mask, bits, 0, line));
}
// Nothing promises that more lanes than this one are here.
inline unsigned __activemask() { return 1u << cuda_on_cpu::lane(); }

// Atomics, with the types that CUDA has them for.
namespace cuda_on_cpu {

template <typename T, typename Change>
inline T atomic(T* address, const Change& change) {
  T old, changed;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    changed = change(old);
  } while (!__atomic_compare_exchange(address, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace cuda_on_cpu

#define PYDET_ATOMIC(name, T, expression)                                                       \
  inline T name(T* address, T value) {                                                          \
    return cuda_on_cpu::atomic(address, [value](T old) { return static_cast<T>(expression); }); \
  }
#define PYDET_ATOMICS(T)                                                                      \
  PYDET_ATOMIC(atomicAdd, T, old + value)                                                     \
  PYDET_ATOMIC(atomicMax, T, old > value ? old : value)                                       \
  PYDET_ATOMIC(atomicMin, T, old < value ? old : value)                                       \
  PYDET_ATOMIC(atomicExch, T, (static_cast<void>(old), value))                                \
  PYDET_ATOMIC(atomicAnd, T, old& value)                                                      \
  PYDET_ATOMIC(atomicOr, T, old | value)                                                      \
  PYDET_ATOMIC(atomicXor, T, old ^ value)                                                     \
  inline T atomicCAS(T* address, T compare, T value) {                                        \
    return cuda_on_cpu::atomic(address, [=](T old) { return old == compare ? value : old; }); \
  }
PYDET_ATOMICS(int)
PYDET_ATOMICS(unsigned)
PYDET_ATOMICS(unsigned long long)
PYDET_ATOMIC(atomicMax, long long, old > value ? old : value)
PYDET_ATOMIC(atomicMin, long long, old < value ? old : value)
PYDET_ATOMIC(atomicAdd, float, old + value)
PYDET_ATOMIC(atomicAdd, double, old + value)
PYDET_ATOMIC(atomicExch, float, (static_cast<void>(old), value))
PYDET_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
inline unsigned atomicSub(unsigned* address, unsigned value) { return atomicAdd(address, 0u - value); }
inline int atomicSub(int* address, int value) { return atomicAdd(address, -value); }
#undef PYDET_ATOMICS
#undef PYDET_ATOMIC

// Bits
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
  return reversed;
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}

namespace cuda_on_cpu {

template <typename To, typename From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace cuda_on_cpu

inline int __float_as_int(float x) { return cuda_on_cpu::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu::bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_on_cpu::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_cpu::bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::bits_as<double>(x); }

// Rounded once each, as the file's flags have it anyway (-ffp-contract=off, nvcc's --fmad=false).
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }

// Loads and stores with a hint for the cache
#define PYDET_LOAD(name)            \
  template <typename T>             \
  inline T name(const T* address) { \
    return *address;                \
  }
#define PYDET_STORE(name)                 \
  template <typename T>                   \
  inline void name(T* address, T value) { \
    *address = value;                     \
  }
PYDET_LOAD(__ldg)
PYDET_LOAD(__ldca)
PYDET_LOAD(__ldcg)
PYDET_LOAD(__ldcs)
PYDET_LOAD(__ldlu)
PYDET_STORE(__stcg)
PYDET_STORE(__stcs)
PYDET_STORE(__stwb)
PYDET_STORE(__stwt)
#undef PYDET_LOAD
#undef PYDET_STORE

// CUDA has these without a namespace; of integers of two types they make the common one, of a number and a NaN the
// number.
template <typename A, typename B>
inline std::common_type_t<A, B> min(A a, B b) {
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>) return std::fmin(a, b);
  return b < a ? b : a;
}
template <typename A, typename B>
inline std::common_type_t<A, B> max(A a, B b) {
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>) return std::fmax(a, b);
  return a < b ? b : a;
}

using cudaStream_t = void*;

namespace pydet {

struct DeviceGuard {
  explicit DeviceGuard(int) {}
  ~DeviceGuard() {}
};

inline cudaStream_t current_stream(const Tensor&) { return nullptr; }

template <typename T>
inline T load_relaxed(const T* address) {
  return __atomic_load_n(address, __ATOMIC_RELAXED);
}
template <typename T>
inline void store_relaxed(T* address, T value) {
  __atomic_store_n(address, value, __ATOMIC_RELAXED);
}

inline int multiprocessors() { return 3; }  // few: a loop over the grid runs more than once

// Of this library alone, as is its static shared memory: another one may have a kernel with the same parameters.
template <typename... Params, typename... Args>
static inline void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t, Args... args) {
#if defined(__SANITIZE_ADDRESS__)
  const void* const anchor = nullptr;
#else
  static thread_local char variable;
  const void* const anchor = &variable;
#endif
  cuda_on_cpu::run(grid, block, shared, anchor, [&] { kernel(static_cast<Params>(args)...); });
}

}  // namespace pydet

#endif  // PYDET_CUDA_UTILS
