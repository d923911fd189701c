// What goes wrong inside of torch, in torch's words. Before torch's headers, whose functions report errors with it,
// too.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

#include <stdexcept>
#include <string>

// Of the last error in this thread. Since torch 2.13; null under an older one.
#if defined(__APPLE__)
extern "C" __attribute__((weak_import)) const char* torch_exception_get_what_without_backtrace();
#else
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();
#endif

namespace pydet {

[[noreturn]] inline void throw_torch_error(const std::string& unless_torch_says) {
  const char* said = torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : "";
  throw std::runtime_error(*said ? said : unless_torch_says);
}

}  // namespace pydet

// torch's own says which of its functions failed, and not why.
#undef TORCH_ERROR_CODE_CHECK
#define TORCH_ERROR_CODE_CHECK(call)                                                    \
  if ((call) != TORCH_SUCCESS) {                                                        \
    ::pydet::throw_torch_error("torch has no words for what went wrong in " #call "."); \
  }
