// What every operator needs of torch's stable ABI: errors with values in them, and dispatch over dtypes.
#pragma once

#include "torch_errors.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace pydet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A string argument of an operator. torch's own conversion to std::string forgets one of its two copies in the headers
// of some versions (2.13 among them), which is 48 bytes a call.
struct Text : std::string {
  using std::string::string;
};

// "[7, 5]"
template <typename Values>
std::string list_of(const Values& values) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < values.size(); ++i) out << (i ? ", " : "") << values[i];
  out << ']';
  return out.str();
}

inline std::string shape_of(const Tensor& t) { return list_of(t.sizes()); }

inline std::vector<int64_t> shape_vector(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

inline std::string dtype_of(const Tensor& t) { return torch::headeronly::toString(t.scalar_type()); }

// Of float and double, in which all arithmetic is.
template <typename T>
constexpr ScalarType kDtype = sizeof(T) == sizeof(double) ? ScalarType::Double : ScalarType::Float;

// float64 where one of them is, else float32: half precision can't hold sums and pixels.
template <typename... Tensors>
ScalarType wide_dtype(const Tensors&... tensors) {
  return ((tensors.scalar_type() == ScalarType::Double) || ...) ? ScalarType::Double : ScalarType::Float;
}

// Both conversions go through the dispatcher: only what is needed is called.
inline Tensor as_contiguous(const Tensor& t, ScalarType type) {
  const Tensor converted = t.scalar_type() == type ? t : torch::stable::to(t, type);
  return converted.is_contiguous() ? converted : torch::stable::contiguous(converted);
}

// Whether 16 bytes can be read or written at once.
inline bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Large new memory is mapped page by page while it is first written, which takes longer than the writing itself; in
// huge pages it does not. A hint: where it is not followed nothing changes.
inline void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~(kHugePage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Uninitialised, on the device of `like`; the C call itself, since torch::stable::new_empty takes a microsecond.
inline Tensor new_strided(const Tensor& like, const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                          ScalarType type) {
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle = nullptr;
  const AOTITorchError failed =
      aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
                               torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)), device_type,
                               like.get_device_index(), &handle);
  if (failed) {
    // Without torch's own words the beginning of them, by which programs know that they may try again with less.
    throw_torch_error(
        std::string(device_type == aoti_torch_device_type_cpu() ? "can't allocate memory: " : "CUDA out of memory. ") +
        "There is no room for " + list_of(shape) + " of " + torch::headeronly::toString(type));
  }
  Tensor out(handle);
  if (out.is_cpu()) prefer_huge_pages(out.data_ptr(), out.numel() * static_cast<int64_t>(out.element_size()));
  return out;
}

inline Tensor new_dense(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * std::max<int64_t>(shape[d], 1);
  return new_strided(like, shape, strides, type);
}

// The one number of a tensor. On a GPU the host waits for it, and what a kernel did wrong before is told here.
inline int64_t waited_for(const Tensor& number) {
  int64_t value = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(number.get(), &value));
  return value;
}

// Strides of [B, C, H, W] whose channels are adjacent.
inline std::vector<int64_t> channels_last(int64_t channels, int64_t height, int64_t width) {
  return {height * width * channels, 1, width * channels, channels};
}

inline Tensor new_channels_last(const Tensor& like, int64_t batch, int64_t channels, int64_t height, int64_t width) {
  return new_strided(like, {batch, channels, height, width}, channels_last(channels, height, width),
                     like.scalar_type());
}

template <typename... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  throw std::runtime_error(out.str());
}

// PYDET_CHECK(rule, "nms: boxes must be [N, 4], got ", shape_of(boxes)): the parts are only built on failure.
#define PYDET_CHECK(condition, ...)               \
  do {                                            \
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
#define PYDET_DISPATCH_FLOATING(TYPE, NAME, ...)                                                           \
  THO_DISPATCH_SWITCH(                                                                                     \
      TYPE, NAME,                                                                                          \
      THO_DISPATCH_CASE(ScalarType::Float, __VA_ARGS__) THO_DISPATCH_CASE(ScalarType::Double, __VA_ARGS__) \
          THO_DISPATCH_CASE(ScalarType::Half, __VA_ARGS__) THO_DISPATCH_CASE(ScalarType::BFloat16, __VA_ARGS__))

}  // namespace pydet

template <>
struct torch::stable::detail::ToImpl<pydet::Text> {
  static pydet::Text call(StableIValue value, uint64_t, bool) {
    const auto handle = torch::stable::detail::to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    pydet::Text text(data, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};
