#include "cpu_level.h"

#include <cstdlib>

#include "torch_utils.h"

namespace pydet {
namespace {

CpuLevel best_level() {
#if PYDET_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd")) {
    return CpuLevel::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("f16c")) {
    return CpuLevel::avx2;
  }
#endif
  return CpuLevel::baseline;
}

CpuLevel chosen_level() {
  const char* asked = std::getenv("PYDET_CPU_LEVEL");
  const CpuLevel best = best_level();
  if (asked == nullptr || *asked == '\0') return best;
  const std::string name(asked);
  CpuLevel level = best;
  if (name == "baseline") {
    level = CpuLevel::baseline;
  } else if (name == "avx2") {
    level = CpuLevel::avx2;
  } else {
    PYDET_CHECK(name == "avx512", "PYDET_CPU_LEVEL must be baseline, avx2 or avx512, got ", name);
  }
  return level < best ? level : best;
}

int64_t cpu_level_op() { return static_cast<int64_t>(cpu_level()); }

}  // namespace

CpuLevel cpu_level() {
  static const CpuLevel level = chosen_level();
  return level;
}

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) { m.def("_cpu_level() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(pydet, CompositeExplicitAutograd, m) { m.impl("_cpu_level", TORCH_BOX(&cpu_level_op)); }

}  // namespace pydet
