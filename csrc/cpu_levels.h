// Compiles one file of kernels once per instruction set and calls the best one this machine has:
//
//   #define PYDET_KERNELS "cpu/box_iou.h"
//   #include "cpu_levels.h"
//   ...
//   PYDET_CPU_CALL(box_iou, arguments...);
//
// The file defines its kernels inside `namespace pydet { namespace PYDET_LEVEL { ... } }`. It is written as plain loops
// that the compiler vectorises, or as intrinsics under `#if PYDET_LEVEL_IS_AVX512`. Everything it includes must be
// included before cpu_levels.h, so that no inline function of a library is compiled for an instruction set that the
// machine may lack.
#pragma once

#include "cpu_level.h"

#if PYDET_X86
#include <immintrin.h>
#endif

#define PYDET_STRINGIFY(x) #x
#ifdef __clang__
#define PYDET_TARGET_BEGIN(features) \
  _Pragma(PYDET_STRINGIFY(clang attribute push(__attribute__((target(features))), apply_to = function)))
#define PYDET_TARGET_END _Pragma("clang attribute pop")
#else
#define PYDET_TARGET_BEGIN(features) _Pragma("GCC push_options") _Pragma(PYDET_STRINGIFY(GCC target(features)))
#define PYDET_TARGET_END _Pragma("GCC pop_options")
#endif

// Whether a level has a fused multiply-add. Nothing is contracted: only what asks for it is fused (math/scalar.h).
#define PYDET_LEVEL baseline
#if defined(__aarch64__)
#define PYDET_LEVEL_IS_FUSED true
#else
#define PYDET_LEVEL_IS_FUSED false
#endif
#include PYDET_KERNELS
#undef PYDET_LEVEL_IS_FUSED
#undef PYDET_LEVEL

#if PYDET_X86
#define PYDET_LEVEL_IS_FUSED true
PYDET_TARGET_BEGIN("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#define PYDET_LEVEL avx2
#define PYDET_LEVEL_IS_AVX2 1
#include PYDET_KERNELS
#undef PYDET_LEVEL_IS_AVX2
#undef PYDET_LEVEL
PYDET_TARGET_END

#define PYDET_AVX512 "avx512f,avx512vl,avx512bw,avx512dq,avx512cd,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"
#ifdef __clang__
PYDET_TARGET_BEGIN(PYDET_AVX512)
#else
PYDET_TARGET_BEGIN(PYDET_AVX512 ",prefer-vector-width=512")
#endif
#define PYDET_LEVEL avx512
#define PYDET_LEVEL_IS_AVX512 1
#include PYDET_KERNELS
#undef PYDET_LEVEL_IS_AVX512
#undef PYDET_LEVEL
PYDET_TARGET_END
#undef PYDET_LEVEL_IS_FUSED

#define PYDET_CPU_CALL(kernel, ...)                                                         \
  (::pydet::cpu_level() == ::pydet::CpuLevel::avx512 ? ::pydet::avx512::kernel(__VA_ARGS__) \
   : ::pydet::cpu_level() == ::pydet::CpuLevel::avx2 ? ::pydet::avx2::kernel(__VA_ARGS__)   \
                                                     : ::pydet::baseline::kernel(__VA_ARGS__))
#else
#define PYDET_CPU_CALL(kernel, ...) ::pydet::baseline::kernel(__VA_ARGS__)
#endif
