#include "race_check.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cuda_on_cpu::race {
namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kWord = 4, kPage = 1024;

enum Kind { kWrite, kAtomic, kRead };

struct Access {
  uint32_t who = 0;   // 1 + block * threads of a block + thread; 0: nobody
  uint32_t when = 0;  // see `now`
  const void* code = nullptr;
};

// The last ones. Of reads two, of different warps if there are such: then whatever conflicts with any read, from any
// warp, conflicts with one of these. Of atomic operations one: who comes after it comes after all before it, in which
// they can be seen. Other orders, in which one of them comes later, are run too.
struct Entry {
  Access write, atomic, reads[2];
};

// Of four bytes, which most accesses touch together; the first that does not gives every byte its own.
struct Word {
  Entry all;
  std::unique_ptr<std::array<Entry, kWord>> bytes;
};

using Page = std::array<Word, kPage / kWord>;

// What other blocks may rely on: that thread u has made visible what it did before times[u] (or all did before `all`).
struct Cover {
  uint32_t all = 0;
  std::vector<uint32_t> times;

  bool covers(unsigned thread, uint32_t when) const { return when < all || (!times.empty() && when < times[thread]); }
};

struct Thread {
  std::array<uint32_t, kWarp> seen{};    // of its warp's lanes: what each did before this time
  std::array<uint32_t, kWarp> fenced{};  // the same, as it was at this thread's last fence
  uint32_t fenced_all = 0;
  bool acquired = false;
};

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
std::array<std::pair<uintptr_t, Page*>, 64> recent;  // by number % 64, since a kernel goes to and fro between arrays

Range stacks, shared[2];
unsigned threads = 1;
std::vector<Thread> thread_states;
std::vector<Cover> published;  // by block
Cover fenced_at_barrier;
size_t block = 0;
unsigned self = 0;
bool active = false;
uint32_t now = 0;           // counts what orders anything: barriers, __syncwarp, fences
uint32_t last_barrier = 0;  // of this block
bool block_acquired = false, fenced_since = false;

Page& page_of(uintptr_t address) {
  const uintptr_t number = address / kPage;
  auto& [recent_number, page] = recent[number % recent.size()];
  if (page == nullptr || recent_number != number) {
    std::unique_ptr<Page>& found = pages[number];
    if (!found) found = std::make_unique<Page>();
    page = found.get();
    recent_number = number;
  }
  return *page;
}

unsigned thread_of(const Access& a) { return static_cast<unsigned>((a.who - 1) % threads); }
size_t block_of(const Access& a) { return (a.who - 1) / threads; }

bool is_shared(const void* address) { return shared[0].contains(address) || shared[1].contains(address); }

bool ordered(const Access& before, bool in_shared_memory) {
  if (before.who == 0) return true;
  const unsigned thread = thread_of(before);
  const Thread& here = thread_states[self];
  if (block_of(before) != block) {
    // Another block's shared memory lay at the same address.
    return in_shared_memory ||
           ((block_acquired || here.acquired) && published[block_of(before)].covers(thread, before.when));
  }
  return thread == self || before.when < last_barrier ||
         (thread / kWarp == self / kWarp && before.when < here.seen[thread % kWarp]);
}

// "line 12 of nms.cu", if addr2line and debug information are there.
std::string place(const void* code) {
  Dl_info library;
  if (dladdr(code, &library) == 0) return "an unknown line";
  std::ostringstream command;
  command << "addr2line -s -i -e '" << library.dli_fname << "' 0x" << std::hex
          << static_cast<const char*>(code) - static_cast<const char*>(library.dli_fbase) - 1 << " 2>/dev/null";
  std::string found = "an unknown line";
  if (FILE* output = popen(command.str().c_str(), "r")) {
    char text[256];
    while (fgets(text, sizeof(text), output)) {
      found.assign(text, strcspn(text, " \n"));
      if (found.find("cuda_utils.cuh") == std::string::npos) break;  // the function that called an atomic
    }
    pclose(output);
  }
  return found;
}

[[noreturn]] void report(const Access& before, Kind kind_before, const Access& here, Kind kind, bool in_shared_memory) {
  static const char* const past[] = {"wrote", "changed atomically", "read"};
  static const char* const present[] = {"writes", "changes atomically", "reads"};
  std::ostringstream out;
  out << "race in " << (in_shared_memory ? "shared" : "global") << " memory: thread " << self << " of block " << block
      << " " << present[kind] << " (" << place(here.code) << ") what thread " << thread_of(before) << " of block "
      << block_of(before) << " " << past[kind_before] << " (" << place(before.code)
      << "), with nothing between that orders them";
  found(out.str());
  abort();
}

void remember(Access (&reads)[2], const Access& here) {
  if (reads[0].who != here.who) {
    const bool same_warp = reads[0].who && block_of(reads[0]) == block && thread_of(reads[0]) / kWarp == self / kWarp;
    if (!same_warp || reads[1].who == 0) reads[1] = reads[0];
  }
  reads[0] = here;
}

void check(Entry& entry, const Access& here, Kind kind, bool in_shared_memory) {
  const auto demand = [&](const Access& before, Kind kind_before) {
    if (!ordered(before, in_shared_memory)) report(before, kind_before, here, kind, in_shared_memory);
  };
  demand(entry.write, kWrite);
  if (kind != kAtomic) demand(entry.atomic, kAtomic);
  if (kind != kRead) {
    for (const Access& read : entry.reads) demand(read, kRead);
  }
  if (kind == kWrite) {
    entry = Entry{};  // whoever is ordered with this write is with what it was ordered with
    entry.write = here;
  } else if (kind == kAtomic) {
    entry.atomic = here;
  } else {
    remember(entry.reads, here);
  }
}

void access(const void* address, size_t size, Kind kind, const void* code) {
  if (!active || stacks.contains(address)) return;
  const bool in_shared_memory = is_shared(address);
  const Access here{static_cast<uint32_t>(1 + block * threads + self), now, code};
  uintptr_t at = reinterpret_cast<uintptr_t>(address);
  for (const uintptr_t end = at + size; at < end;) {
    Word& word = page_of(at)[at % kPage / kWord];
    if (at % kWord == 0 && end - at >= kWord && !word.bytes) {
      check(word.all, here, kind, in_shared_memory);
      at += kWord;
      continue;
    }
    if (!word.bytes) {
      word.bytes = std::make_unique<std::array<Entry, kWord>>();
      word.bytes->fill(word.all);
    }
    check((*word.bytes)[at % kWord], here, kind, in_shared_memory);
    ++at;
  }
}

void atomic(const void* address, size_t size, const void* code) {
  if (!active) return;
  access(address, size, kAtomic, code);
  Thread& here = thread_states[self];
  here.acquired = true;
  if (!fenced_since) return;
  Cover& cover = published[block];
  cover.times.resize(threads);
  cover.all = std::max({cover.all, fenced_at_barrier.all, here.fenced_all});
  for (unsigned t = 0; t < threads; ++t) cover.times[t] = std::max(cover.times[t], fenced_at_barrier.times[t]);
  for (unsigned l = 0, first = self / kWarp * kWarp; l < kWarp && first + l < threads; ++l) {
    cover.times[first + l] = std::max(cover.times[first + l], here.fenced[l]);
  }
}

}  // namespace

void (*found)(const std::string& sentence) = nullptr;

void begin_launch(unsigned threads_of_a_block, size_t blocks, Range stacks_, Range static_shared,
                  Range dynamic_shared) {
  threads = threads_of_a_block;
  stacks = stacks_;
  shared[0] = static_shared;
  shared[1] = dynamic_shared;
  pages.clear();
  recent.fill({0, nullptr});
  published.assign(blocks, Cover{});
  now = 0;
}

void begin_block(size_t number) {
  block = number;
  thread_states.assign(threads, Thread{});
  fenced_at_barrier.all = 0;
  fenced_at_barrier.times.assign(threads, 0);
  last_barrier = ++now;
  block_acquired = fenced_since = false;
}

void begin_thread(unsigned thread) {
  self = thread;
  active = true;
}

void end_kernel_code() { active = false; }

void barrier_opened() {
  last_barrier = ++now;
  for (unsigned t = 0; t < threads; ++t) {
    const Thread& thread = thread_states[t];
    block_acquired |= thread.acquired;
    if (!fenced_since) continue;
    fenced_at_barrier.all = std::max(fenced_at_barrier.all, thread.fenced_all);
    for (unsigned l = 0, first = t / kWarp * kWarp; l < kWarp && first + l < threads; ++l) {
      fenced_at_barrier.times[first + l] = std::max(fenced_at_barrier.times[first + l], thread.fenced[l]);
    }
  }
}

void warp_synchronized(unsigned first_thread, unsigned mask) {
  ++now;
  std::array<uint32_t, kWarp> seen{};
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1)) continue;
    for (unsigned k = 0; k < kWarp; ++k) seen[k] = std::max(seen[k], thread_states[first_thread + l].seen[k]);
  }
  for (unsigned l = 0; l < kWarp; ++l) {
    if (mask >> l & 1) seen[l] = now;
  }
  bool acquired = false;
  for (unsigned l = 0; l < kWarp; ++l) acquired |= (mask >> l & 1) && thread_states[first_thread + l].acquired;
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1)) continue;
    thread_states[first_thread + l].seen = seen;
    thread_states[first_thread + l].acquired = acquired;
  }
}

void fence() {
  Thread& here = thread_states[self];
  ++now;
  here.fenced = here.seen;
  here.fenced[self % kWarp] = now;
  here.fenced_all = last_barrier;
  fenced_since = true;
}

}  // namespace cuda_on_cpu::race

// What the compiler calls.
using cuda_on_cpu::race::access;
using cuda_on_cpu::race::kRead;
using cuda_on_cpu::race::kWrite;
#define CODE __builtin_return_address(0)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, size_t size) { access(p, size, kRead, CODE); }
void __tsan_write_range(void* p, size_t size) { access(p, size, kWrite, CODE); }

#define ACCESSES(size)                                                        \
  void __tsan_read##size(void* p) { access(p, size, kRead, CODE); }           \
  void __tsan_write##size(void* p) { access(p, size, kWrite, CODE); }         \
  void __tsan_unaligned_read##size(void* p) { access(p, size, kRead, CODE); } \
  void __tsan_unaligned_write##size(void* p) { access(p, size, kWrite, CODE); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

#define OPERATION(bits, T, name, builtin)                          \
  T __tsan_atomic##bits##_##name(volatile T* p, T value, int) {    \
    cuda_on_cpu::race::atomic(const_cast<T*>(p), sizeof(T), CODE); \
    return builtin(p, value, __ATOMIC_SEQ_CST);                    \
  }
#define EXCHANGE(bits, T, name)                                                                        \
  int __tsan_atomic##bits##_compare_exchange_##name(volatile T* p, T* expected, T value, int, int) {   \
    cuda_on_cpu::race::atomic(const_cast<T*>(p), sizeof(T), CODE);                                     \
    return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
#define ATOMICS(bits, T)                                           \
  T __tsan_atomic##bits##_load(const volatile T* p, int) {         \
    cuda_on_cpu::race::atomic(const_cast<T*>(p), sizeof(T), CODE); \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                   \
  }                                                                \
  void __tsan_atomic##bits##_store(volatile T* p, T value, int) {  \
    cuda_on_cpu::race::atomic(const_cast<T*>(p), sizeof(T), CODE); \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                  \
  }                                                                \
  OPERATION(bits, T, exchange, __atomic_exchange_n)                \
  OPERATION(bits, T, fetch_add, __atomic_fetch_add)                \
  OPERATION(bits, T, fetch_sub, __atomic_fetch_sub)                \
  OPERATION(bits, T, fetch_and, __atomic_fetch_and)                \
  OPERATION(bits, T, fetch_or, __atomic_fetch_or)                  \
  OPERATION(bits, T, fetch_xor, __atomic_fetch_xor)                \
  EXCHANGE(bits, T, strong)                                        \
  EXCHANGE(bits, T, weak)
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
void __tsan_atomic_thread_fence(int) {}

}  // extern "C"
