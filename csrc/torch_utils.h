// What every operator needs of torch's stable ABI: errors with values in them, and dispatch over dtypes.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

namespace pydet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// "[7, 5]"
inline std::string shape_of(const Tensor& t) {
  std::ostringstream out;
  out << '[';
  for (int64_t d = 0; d < t.dim(); ++d) out << (d ? ", " : "") << t.size(d);
  out << ']';
  return out.str();
}

inline std::string dtype_of(const Tensor& t) {
  return torch::headeronly::toString(t.scalar_type());
}

template <typename... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  throw std::runtime_error(out.str());
}

// PYDET_CHECK(rule, "nms: boxes must be [N, 4], got ", shape_of(boxes)): the parts are only built on failure.
#define PYDET_CHECK(condition, ...)              \
  do {                                           \
    if (!(condition)) ::pydet::fail(__VA_ARGS__); \
  } while (0)

inline bool is_floating(ScalarType t) {
  return t == ScalarType::Float || t == ScalarType::Double || t == ScalarType::Half || t == ScalarType::BFloat16;
}

inline bool is_integral(ScalarType t) {
  return t == ScalarType::Byte || t == ScalarType::Char || t == ScalarType::Short || t == ScalarType::Int ||
         t == ScalarType::Long;
}

// Body sees `scalar_t`. Variadic because kernels launched inside have commas.
#define PYDET_DISPATCH_FLOATING(TYPE, NAME, ...)                                     \
  THO_DISPATCH_SWITCH(TYPE, NAME,                                                    \
                      THO_DISPATCH_CASE(ScalarType::Float, __VA_ARGS__)              \
                          THO_DISPATCH_CASE(ScalarType::Double, __VA_ARGS__)         \
                              THO_DISPATCH_CASE(ScalarType::Half, __VA_ARGS__)       \
                                  THO_DISPATCH_CASE(ScalarType::BFloat16, __VA_ARGS__))

#define PYDET_DISPATCH_FLOATING_AND_INTEGRAL(TYPE, NAME, ...)                                           \
  THO_DISPATCH_SWITCH(                                                                                  \
      TYPE, NAME,                                                                                       \
      THO_DISPATCH_CASE(ScalarType::Float, __VA_ARGS__) THO_DISPATCH_CASE(                              \
          ScalarType::Double, __VA_ARGS__) THO_DISPATCH_CASE(ScalarType::Half, __VA_ARGS__)             \
          THO_DISPATCH_CASE(ScalarType::BFloat16, __VA_ARGS__) THO_DISPATCH_CASE(                       \
              ScalarType::Byte, __VA_ARGS__) THO_DISPATCH_CASE(ScalarType::Char, __VA_ARGS__)           \
              THO_DISPATCH_CASE(ScalarType::Short, __VA_ARGS__)                                         \
                  THO_DISPATCH_CASE(ScalarType::Int, __VA_ARGS__)                                       \
                      THO_DISPATCH_CASE(ScalarType::Long, __VA_ARGS__))

}  // namespace pydet
