// Runs CUDA kernels on a CPU: each thread of a block is a fiber, blocks run one after the other.
//
// What a GPU leaves open is chosen at random from a seed: the order of blocks, and of threads between barriers. Shared
// memory holds NaN until it is written; its pieces are separate allocations, so that AddressSanitizer sees the end of
// each. Misuse of a barrier ends the process with a message. For ThreadSanitizer (KAN_TSAN) fibers are threads that
// only barriers order; this file itself must then be compiled without it, or every switch would be a race.
#include "emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(KAN_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace emulation {

Settings settings = {0, 4};
dim3 thread_index, block_index, block_size;

namespace {

constexpr size_t kStack = 256 * 1024;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

// A place to go on from: where it was left or, at first, where it starts.
struct Context {
  ucontext_t start;
  jmp_buf left;
  bool entered;
};

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  State state;
  const unsigned char* offered;  // to its warp
  void* sanitizer;
};

std::vector<Fiber> fibers;
Fiber* current;
std::map<size_t, std::unique_ptr<unsigned char[]>> shared_pieces;  // by offset
size_t shared_limit;
const std::function<void()>* kernel_of_launch;
Context scheduler;
void* scheduler_sanitizer;
const void* scheduler_stack;
size_t scheduler_stack_size;

// The steps of a switch that sanitizers must be told.
void leave(void** fake, const void* stack, size_t size, void* sanitizer) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake, stack, size);
#endif
#if defined(KAN_TSAN)
  __tsan_switch_to_fiber(sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  (void)fake, (void)stack, (void)size, (void)sanitizer;
}

void arrive(void* fake, const void** stack, size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, stack, size);
#endif
  (void)fake, (void)stack, (void)size;
}

// Everything before a `published` happens before everything after a later `observed` of the same clock.
void published(void* clock) {
#if defined(KAN_TSAN)
  __tsan_release(clock);
#endif
  (void)clock;
}

void observed(void* clock) {
#if defined(KAN_TSAN)
  __tsan_acquire(clock);
#endif
  (void)clock;
}

char barrier_clock, end_clock;

// Sanitizers know swapcontext alone; without it a switch takes no system calls, which are most of the time.
void go(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__) || defined(KAN_TSAN)
  swapcontext(&from.start, &to.start);
#else
  from.entered = true;
  if (_setjmp(from.left)) return;
  if (to.entered) _longjmp(to.left, 1);
  setcontext(&to.start);
#endif
}

void to_scheduler() {
  void* fake = nullptr;
  const bool last = current->state == State::kDone;
  leave(last ? nullptr : &fake, scheduler_stack, scheduler_stack_size, scheduler_sanitizer);
  go(current->context, scheduler);
  arrive(fake, &scheduler_stack, &scheduler_stack_size);
}

void to_fiber(Fiber& fiber) {
  void* fake = nullptr;
  current = &fiber;
  thread_index.x = unsigned(&fiber - fibers.data());
  leave(&fake, fiber.stack.get(), kStack, fiber.sanitizer);
  go(scheduler, fiber.context);
  arrive(fake, nullptr, nullptr);
}

void enter() {
  arrive(nullptr, &scheduler_stack, &scheduler_stack_size);
  (*kernel_of_launch)();
  published(&end_clock);
  current->state = State::kDone;
  to_scheduler();
}

void wait(State state) {
  current->state = state;
  to_scheduler();
}

// Lets fibers go on if all of them are at the barrier.
bool pass_barrier(State barrier, size_t begin, size_t end) {
  for (size_t n = begin; n < end; ++n)
    if (fibers[n].state != barrier) return false;
  for (auto step : {published, observed})
    for (size_t n = begin; n < end; ++n) {
#if defined(KAN_TSAN)
      __tsan_switch_to_fiber(fibers[n].sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
      step(&barrier_clock);
    }
#if defined(KAN_TSAN)
  __tsan_switch_to_fiber(scheduler_sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  for (size_t n = begin; n < end; ++n) fibers[n].state = State::kReady;
  return true;
}

void run_block(std::mt19937& random) {
  std::vector<Fiber*> order;
  for (Fiber& fiber : fibers) {
    order.push_back(&fiber);
    fiber.state = State::kReady;
    ucontext_t& start = fiber.context.start;
    getcontext(&start);
    start.uc_stack.ss_sp = fiber.stack.get();
    start.uc_stack.ss_size = kStack;
    start.uc_link = nullptr;
    makecontext(&start, enter, 0);
    fiber.context.entered = false;
#if defined(KAN_TSAN)
    fiber.sanitizer = __tsan_create_fiber(0);
#endif
  }
  for (size_t done = 0; done < fibers.size();) {
    std::shuffle(order.begin(), order.end(), random);
    bool progress = false;
    for (Fiber* fiber : order) {
      if (fiber->state != State::kReady) continue;
      to_fiber(*fiber);
      progress = true;
      done += fiber->state == State::kDone;
    }
    for (size_t begin = 0; begin < fibers.size(); begin += kWarp)
      progress |= pass_barrier(State::kAtWarpBarrier, begin, std::min(begin + kWarp, fibers.size()));
    progress |= pass_barrier(State::kAtBlockBarrier, 0, fibers.size());
    if (!progress) fail("a barrier is not reached by all threads");
  }
  observed(&end_clock);
#if defined(KAN_TSAN)
  for (Fiber& fiber : fibers) __tsan_destroy_fiber(fiber.sanitizer);
#endif
  shared_pieces.clear();
}

}  // namespace

void fail(const char* message) {
  std::fprintf(stderr, "CUDA emulation: %s (block %u,%u,%u)\n", message, block_index.x, block_index.y, block_index.z);
  std::abort();
}

void block_barrier() { wait(State::kAtBlockBarrier); }

void exchange(void* value, size_t bytes, unsigned source) {
  auto* mine = static_cast<volatile unsigned char*>(value);  // no memcpy: ThreadSanitizer would watch it
  unsigned char copy[16];
  if (bytes > sizeof(copy)) fail("too large a value for a shuffle");
  for (size_t n = 0; n < bytes; ++n) copy[n] = mine[n];
  const size_t warp = thread_index.x / kWarp * kWarp;
  current->offered = copy;
  wait(State::kAtWarpBarrier);
  for (size_t n = 0; n < bytes; ++n) mine[n] = fibers[warp + source].offered[n];
  wait(State::kAtWarpBarrier);
}

void* shared_piece(size_t offset, size_t bytes) {
  if (offset + bytes > shared_limit) fail("more shared memory than the launch asked for");
  auto& piece = shared_pieces[offset];
  if (!piece) {
    piece.reset(new unsigned char[bytes]);
    for (size_t n = 0; n < bytes; ++n) const_cast<volatile unsigned char*>(piece.get())[n] = 0xff;
    published(piece.get());
  }
  observed(piece.get());
  return piece.get();
}

void run(dim3 blocks, unsigned threads, size_t shared, const std::function<void()>& kernel) {
  block_size = dim3(threads);
  shared_limit = shared;
  kernel_of_launch = &kernel;
  fibers.resize(threads);
#if defined(KAN_TSAN)
  scheduler_sanitizer = __tsan_get_current_fiber();
#endif
  std::mt19937 random(settings.seed);
  std::vector<unsigned> order(size_t(blocks.x) * blocks.y * blocks.z);
  for (unsigned n = 0; n < order.size(); ++n) order[n] = n;
  std::shuffle(order.begin(), order.end(), random);
  for (unsigned n : order) {
    block_index = dim3(n % blocks.x, n / blocks.x % blocks.y, n / blocks.x / blocks.y);
    run_block(random);
  }
}

}  // namespace emulation

extern "C" void kan_emulation_configure(unsigned seed, int processors) { emulation::settings = {seed, processors}; }
