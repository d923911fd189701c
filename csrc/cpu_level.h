// Which instruction set the CPU kernels use.
#pragma once

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PYDET_X86 1
#else
#define PYDET_X86 0
#endif

namespace pydet {
enum class CpuLevel : int { baseline = 0, avx2 = 1, avx512 = 2 };
CpuLevel cpu_level();  // what is used: the best of this machine, or less if PYDET_CPU_LEVEL asks for it
}  // namespace pydet
