// Finds two threads of a kernel that touch the same bytes, one of them writing, with nothing that orders them. The
// compiler reports every access (-fsanitize=thread), race_check.cpp stands in for ThreadSanitizer's runtime: it knows
// CUDA's rules, needs no preloading, and sees a race in whatever order the threads happen to run.
//
// What orders two accesses: the same thread; a barrier of the block; __syncwarp of both lanes (not a shuffle or a
// vote: they exchange values and order no memory); between blocks, __threadfence and then an atomic operation of the
// one, and an atomic operation of the other. Atomic operations do not race with each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cuda_on_cpu::race {

struct Range {
  const void* begin = nullptr;
  size_t size = 0;

  bool contains(const void* address) const {
    return static_cast<const char*>(address) - static_cast<const char*>(begin) >= 0 &&
           static_cast<const char*>(address) < static_cast<const char*>(begin) + size;
  }
};

// `stacks` belong to one thread each, what is shared to one block at a time.
void begin_launch(unsigned threads_of_a_block, size_t blocks, Range stacks, Range static_shared, Range dynamic_shared);
void begin_block(size_t block);
void begin_thread(unsigned thread);  // it runs from now on
void end_kernel_code();              // what follows is the scheduler or the host
void barrier_opened();
void warp_synchronized(unsigned first_thread, unsigned mask);
void fence();

extern void (*found)(const std::string& sentence);  // called with a race; does not return

}  // namespace cuda_on_cpu::race
