// torch's parallel_for on threads that ThreadSanitizer sees begin and end. Those of OpenMP, which torch uses, wait for
// each other in ways that it does not know, so that all that they share would look like a race.
// Loaded before libtorch, whose function of this name it replaces.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kThreads = 4;
thread_local bool inside = false;

}  // namespace

extern "C" int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*visit)(int64_t, int64_t, void*),
                                      void* context) {
  const int64_t size = end - begin;
  if (size <= 0) return 0;
  const int64_t tasks =
      inside ? 1 : std::min(kThreads, (size + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1));
  if (tasks == 1) {
    visit(begin, end, context);
    return 0;
  }
  std::vector<std::thread> threads;
  for (int64_t task = 0; task < tasks; ++task) {
    threads.emplace_back([=] {
      inside = true;
      visit(begin + size * task / tasks, begin + size * (task + 1) / tasks, context);
    });
  }
  for (auto& thread : threads) thread.join();
  return 0;
}
