#include "runtime.h"

#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "race_check.h"

// There with AddressSanitizer only, which has to know whose stack it looks at.
extern "C" __attribute__((weak)) void __sanitizer_start_switch_fiber(void** saved, const void* bottom, size_t size);
extern "C" __attribute__((weak)) void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kStack = size_t{256} << 10, kGuard = 4096;
constexpr size_t kMaxShared = size_t{64} << 10;  // what every GPU since sm_75 has for a block
constexpr int kGarbage = 0xdb;  // CUDA clears no memory: 0xdbdb... is a strange number in every dtype

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Fiber {
  void* jump[5];  // of __builtin_setjmp: unlike swapcontext it makes no system call
  void* asan = nullptr;
  const void* stack = nullptr;  // its lowest byte
  size_t stack_size = 0;
  bool started = false;

  State state = State::kDone;
  dim3 index;
  unsigned lane = 0, warp = 0;
  int line = 0;  // where it waits
  WarpOperation operation{};
  unsigned mask = 0, source = 0;
  uint64_t value = 0, result = 0;
};

Fiber fibers[kMaxThreads];
Fiber scheduler;
Fiber* current = &scheduler;
const std::function<void()>* kernel = nullptr;
unsigned threads = 0;
unsigned waiting = 0, holds = 0, barrier_result = 0;
const Fiber* first_waiting = nullptr;
std::unique_ptr<char[]> shared_memory;
std::string error;
unsigned seed = 0;

[[noreturn]] __attribute__((noinline)) void jump_to(Fiber& fiber) { __builtin_longjmp(fiber.jump, 1); }

[[noreturn]] void fiber_main();

[[noreturn]] __attribute__((noinline)) void start(Fiber& fiber) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = const_cast<void*>(fiber.stack);
  context.uc_stack.ss_size = fiber.stack_size;
  context.uc_link = nullptr;
  makecontext(&context, fiber_main, 0);
  fiber.started = true;
  setcontext(&context);
  __builtin_unreachable();
}

__attribute__((noinline)) void switch_to(Fiber& next) {
  Fiber& previous = *current;
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&previous.asan, next.stack, next.stack_size);
  race::end_kernel_code();
  current = &next;
  threadIdx = next.index;
  if (&next != &scheduler) race::begin_thread(static_cast<unsigned>(&next - fibers));
  if (__builtin_setjmp(previous.jump) == 0) {
    if (next.started || &next == &scheduler) jump_to(next);
    start(next);
  }
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(current->asan, nullptr, nullptr);
}

// A fiber stays alive between blocks and launches: each time it is ready it runs the kernel once.
void fiber_main() {
  if (__sanitizer_finish_switch_fiber) {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_size);
  }
  for (;;) {
    (*kernel)();
    current->state = State::kDone;
    switch_to(scheduler);
  }
}

race::Range make_fibers(unsigned count) {
  static char* const stacks = static_cast<char*>(
      mmap(nullptr, kMaxThreads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (stacks == MAP_FAILED) throw std::runtime_error("cuda_on_cpu: no memory for the stacks");
  for (unsigned t = 0; t < count; ++t) {
    if (fibers[t].stack) continue;
    mprotect(stacks + t * kStack, kGuard, PROT_NONE);
    fibers[t].stack = stacks + t * kStack + kGuard;
    fibers[t].stack_size = kStack - kGuard;
  }
  return {stacks, kMaxThreads * kStack};
}

// The thread-local variables of the library that has `anchor` among its own: of a kernel's library, all of __shared__.
race::Range variables_around(const void* anchor) {
  struct Search {
    const void* anchor;
    race::Range found;
  } search{anchor, {}};
  const auto look = [](dl_phdr_info* library, size_t, void* data) {
    Search& search = *static_cast<Search*>(data);
    for (int i = 0; library->dlpi_tls_data && i < library->dlpi_phnum; ++i) {
      const race::Range range{library->dlpi_tls_data, library->dlpi_phdr[i].p_memsz};
      if (library->dlpi_phdr[i].p_type == PT_TLS && range.contains(search.anchor)) search.found = range;
    }
    return 0;
  };
  if (anchor) dl_iterate_phdr(look, &search);
  return search.found;
}

std::string block_name() {
  std::ostringstream out;
  out << "block (" << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << ")";
  return out.str();
}

[[noreturn]] void give_up(const std::string& sentence) {
  error = sentence;
  for (;;) switch_to(scheduler);
}

// Why nothing can go on: the first thread that waits, and what the others do.
std::string stuck() {
  const Fiber* first = std::find_if(fibers, fibers + threads, [](const Fiber& f) { return f.state != State::kDone; });
  const auto index = first - fibers;
  unsigned done = 0, elsewhere = 0, same = 0;
  for (unsigned t = 0; t < threads; ++t) {
    done += fibers[t].state == State::kDone;
    same += fibers[t].state == first->state && fibers[t].line == first->line;
  }
  elsewhere = threads - done - same;
  std::ostringstream out;
  out << block_name() << ": thread " << index << " waits in line " << first->line;
  if (first->state == State::kInWarp) out << " for the lanes of mask 0x" << std::hex << first->mask << std::dec;
  out << (first->state == State::kAtBarrier ? " at a barrier that not all threads reach: " : ", which never all come: ")
      << same << " wait there, " << elsewhere << " elsewhere, " << done << " have returned";
  return out.str();
}

void run_block(std::mt19937& random) {
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  for (unsigned t = 0; t < threads; ++t) fibers[t].state = State::kReady;
  waiting = holds = 0;
  for (;;) {
    if (seed) std::shuffle(order.begin(), order.end(), random);
    bool moved = false;
    for (const unsigned t : order) {
      if (fibers[t].state != State::kReady) continue;
      moved = true;
      switch_to(fibers[t]);
      if (!error.empty()) return;
    }
    if (moved) continue;
    if (std::any_of(fibers, fibers + threads, [](const Fiber& f) { return f.state != State::kDone; })) error = stuck();
    return;
  }
}

// All lanes of the mask of `last` have come: they get their results and may go on.
void finish_warp_operation(Fiber* lanes, const Fiber& last) {
  const unsigned mask = last.mask;
  uint64_t ballot = 0;
  for (unsigned l = 0; l < kWarp; ++l) ballot |= uint64_t{(mask >> l & 1) && lanes[l].value != 0} << l;
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1)) continue;
    Fiber& fiber = lanes[l];
    fiber.result = ballot;
    if (last.operation == WarpOperation::kShuffle) {
      fiber.result = mask >> fiber.source & 1 ? lanes[fiber.source].value : 0xdbdbdbdbdbdbdbdbu;
    } else if (last.operation == WarpOperation::kMatch) {
      fiber.result = 0;
      for (unsigned k = 0; k < kWarp; ++k) {
        fiber.result |= uint64_t{(mask >> k & 1) && lanes[k].value == fiber.value} << k;
      }
    }
    fiber.state = State::kReady;
  }
  if (last.operation == WarpOperation::kSync) race::warp_synchronized(last.warp * kWarp, mask);
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared, const void* static_shared, const std::function<void()>& thread) {
  std::ostringstream refused;
  if (grid.x < 1 || grid.x > 0x7fffffffu || grid.y < 1 || grid.y > 65535 || grid.z < 1 || grid.z > 65535) {
    refused << "launch: grid of " << grid.x << " x " << grid.y << " x " << grid.z;
  } else if (block.x < 1 || block.y < 1 || block.z < 1 || block.z > 64 ||
             size_t{block.x} * block.y * block.z > kMaxThreads) {
    refused << "launch: block of " << block.x << " x " << block.y << " x " << block.z << " threads";
  } else if (shared > kMaxShared) {
    refused << "launch: " << shared << " bytes of dynamic shared memory; the smallest GPU has " << kMaxShared;
  }
  if (!refused.str().empty()) throw std::runtime_error(refused.str());

  threads = block.x * block.y * block.z;
  const race::Range stacks = make_fibers(threads), variables = variables_around(static_shared);
  for (unsigned t = 0; t < threads; ++t) {
    fibers[t].index = dim3(t % block.x, t / block.x % block.y, t / block.x / block.y);
    fibers[t].lane = t % kWarp;
    fibers[t].warp = t / kWarp;
  }
  blockDim = block;
  gridDim = grid;
  kernel = &thread;
  std::mt19937 random(seed);
  std::vector<size_t> order(size_t{grid.x} * grid.y * grid.z);
  shared_memory.reset(new char[shared]);
  race::found = [](const std::string& sentence) { give_up(sentence); };
  race::begin_launch(threads, order.size(), stacks, variables, {shared_memory.get(), shared});
  std::iota(order.begin(), order.end(), size_t{0});
  if (seed) std::shuffle(order.begin(), order.end(), random);
  for (const size_t b : order) {
    blockIdx = dim3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                    static_cast<unsigned>(b / grid.x / grid.y));
    memset(shared_memory.get(), kGarbage, shared);
    if (variables.size) memset(const_cast<void*>(variables.begin), kGarbage, variables.size);
    race::begin_block(b);
    run_block(random);
    if (error.empty()) continue;
    for (Fiber& fiber : fibers) fiber.started = false;  // some are in the middle of the kernel: begin anew
    throw std::runtime_error(std::exchange(error, ""));
  }
}

void* dynamic_shared() { return shared_memory.get(); }

unsigned barrier(bool predicate, int line) {
  if (waiting == 0) first_waiting = current;
  current->line = line;
  if (first_waiting->line != line) {
    give_up(block_name() + ": one barrier has thread " + std::to_string(current - fibers) + " in line " +
            std::to_string(line) + " and thread " + std::to_string(first_waiting - fibers) + " in line " +
            std::to_string(first_waiting->line));
  }
  holds += predicate;
  if (++waiting == threads) {
    barrier_result = holds;
    race::barrier_opened();
    waiting = holds = 0;
    for (unsigned t = 0; t < threads; ++t) fibers[t].state = State::kReady;
  } else {
    current->state = State::kAtBarrier;
  }
  switch_to(scheduler);
  return barrier_result;
}

uint64_t warp(WarpOperation operation, unsigned mask, uint64_t value, unsigned source, int line) {
  Fiber& self = *current;
  if (!(mask >> self.lane & 1)) {
    give_up(block_name() + ": thread " + std::to_string(current - fibers) + " in line " + std::to_string(line) +
            " is not in the mask that it gives");
  }
  self.operation = operation;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.line = line;
  self.state = State::kInWarp;
  Fiber* const lanes = fibers + self.warp * kWarp;
  const auto arrived = [&](const Fiber& other) {
    return &other < fibers + threads && other.state == State::kInWarp && other.mask == mask && other.line == line &&
           other.operation == operation;
  };
  for (unsigned l = kWarp; l-- > 0;) {  // from the end: mostly the last ones are missing
    if (mask >> l & 1 && !arrived(lanes[l])) {
      switch_to(scheduler);
      return self.result;
    }
  }
  finish_warp_operation(lanes, self);
  switch_to(scheduler);
  return self.result;
}

unsigned lane() { return current->lane; }

void fence() { race::fence(); }

}  // namespace cuda_on_cpu

// 0: blocks and threads in their natural order; any other number: in an order drawn with it.
extern "C" void cuda_on_cpu_order(unsigned number) { cuda_on_cpu::seed = number; }
