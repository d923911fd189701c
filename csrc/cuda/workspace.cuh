// Several arrays in one allocation: what an allocation costs the host is more than what many kernels take.
#pragma once

#include <type_traits>

#include "cuda_utils.cuh"

namespace pydet {

class Workspace {
 public:
  explicit Workspace(char* memory) : memory_(memory) {}

  // Where an array begins; without memory it is counted only.
  template <typename T>
  void cut(T*& array, int64_t count) {
    array = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// layout(workspace) cuts the arrays: once to count, once to place them. They live as long as the tensor.
template <typename Layout>
Tensor allocate(const Tensor& like, const Layout& layout) {
  Workspace counted(nullptr);
  layout(counted);
  Tensor bytes = new_dense(like, {counted.used()}, ScalarType::Byte);
  Workspace cut(static_cast<char*>(bytes.mutable_data_ptr()));
  layout(cut);
  return bytes;
}

}  // namespace pydet
