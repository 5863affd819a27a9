// A parallel loop on the OpenMP pool that the process already has.
#include <pthread.h>

#include <atomic>
#include <exception>

#include "kernels.h"

namespace kan {
namespace {

// Linking a runtime of our own would start a second pool of threads beside torch's.
std::atomic<Fork> fork_pool = nullptr;

// A forked process has no threads, but its copy of GNU OpenMP would wait for them forever. So it runs on one thread.
bool forked = false;
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, [] { forked = true; });

struct Loop {
  Task task;
  void* context;
  int64_t tasks;
  std::atomic<int64_t> next{0};
  std::atomic<int> workers{0};
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  std::exception_ptr failure;  // the first one, rethrown by the caller: no exception may leave the pool's threads
};

void work(void* data) {
  Loop& loop = *static_cast<Loop*>(data);
  const int worker = loop.workers.fetch_add(1, std::memory_order_relaxed);
  try {
    for (int64_t i; (i = loop.next.fetch_add(1, std::memory_order_relaxed)) < loop.tasks;) {
      loop.task(loop.context, i, worker);
    }
  } catch (...) {
    loop.next.store(loop.tasks, std::memory_order_relaxed);
    if (!loop.failed.test_and_set()) loop.failure = std::current_exception();
  }
}

}  // namespace

void use_thread_pool(Fork fork) { fork_pool = fork; }

bool has_thread_pool() { return fork_pool != nullptr; }

bool is_forked() { return forked; }

void parallel_for(int threads, int64_t tasks, Task task, void* context) {
  if (threads > tasks) threads = static_cast<int>(tasks);
  const Fork fork = fork_pool;
  if (threads <= 1 || forked || !fork) {
    for (int64_t i = 0; i < tasks; i++) task(context, i, 0);
    return;
  }
  Loop loop;
  loop.task = task;
  loop.context = context;
  loop.tasks = tasks;
  fork(work, &loop, static_cast<unsigned>(threads), 0);
  if (loop.failure) std::rethrow_exception(loop.failure);
}

}  // namespace kan
