// Runs CUDA kernels on a CPU: what csrc/cuda uses of CUDA, with the same meaning.
//
// Each thread of a block is a fiber; blocks run one after the other. What a GPU leaves open is chosen at random from a
// seed: the order of blocks and of threads between barriers. Shared memory holds NaN until it is written. Pieces of
// it are separate allocations, so that AddressSanitizer sees the end of each; for ThreadSanitizer fibers are threads
// that only barriers order. Misuse of a barrier ends the process with a message.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulation {

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;

// What a test may choose; set through kan_emulation_configure.
struct Settings {
  unsigned seed = 0;
  int processors = 4;
};
inline Settings settings;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  State state = State::kReady;
  unsigned index = 0;
  unsigned char slot[64] = {};  // what it offers to its warp
  void* sanitizer = nullptr;
};

// The block that runs now.
struct Block {
  dim3 index, size, grid;
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  std::map<size_t, std::unique_ptr<unsigned char[]>> shared;  // pieces by offset
  size_t shared_limit = 0;
  ucontext_t scheduler;
  void* scheduler_sanitizer = nullptr;
  std::function<void()> kernel;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_size = 0;
};
inline Block block;

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "CUDA emulation: %s (block %u,%u,%u)\n", message, block.index.x, block.index.y, block.index.z);
  std::abort();
}

// The two directions of a switch, told to the sanitizers. ThreadSanitizer must not take a switch for a synchronisation.
inline void to_scheduler() {
  Fiber& fiber = *block.current;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(fiber.state == State::kDone ? nullptr : &fake, block.scheduler_stack,
                                 block.scheduler_stack_size);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(block.scheduler_sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  swapcontext(&fiber.context, &block.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &block.scheduler_stack, &block.scheduler_stack_size);
#endif
}

inline void to_fiber(Fiber& fiber) {
  block.current = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), kStack);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber.sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  swapcontext(&block.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_size);
#endif
  block.kernel();
  block.current->state = State::kDone;
  to_scheduler();
}

// All of a range of fibers wait at a barrier: what each did before happens before what any does after.
inline void release(unsigned begin, unsigned end) {
#if defined(__SANITIZE_THREAD__)
  static char clock;
  for (auto* step : {__tsan_release, __tsan_acquire})
    for (unsigned n = begin; n < end; ++n) {
      __tsan_switch_to_fiber(block.fibers[n].sanitizer, __tsan_switch_to_fiber_no_sync);
      step(&clock);
    }
  __tsan_switch_to_fiber(block.scheduler_sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  for (unsigned n = begin; n < end; ++n) block.fibers[n].state = State::kReady;
}

inline bool all_at(State state, unsigned begin, unsigned end) {
  for (unsigned n = begin; n < end; ++n)
    if (block.fibers[n].state != state) return false;
  return true;
}

inline void run_block(std::mt19937& random) {
  const unsigned threads = unsigned(block.fibers.size());
  std::vector<unsigned> order(threads);
  for (unsigned n = 0; n < threads; ++n) {
    Fiber& fiber = block.fibers[n];
    order[n] = fiber.index = n;
    fiber.state = State::kReady;
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.get(), 0, kStack};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
#if defined(__SANITIZE_THREAD__)
    fiber.sanitizer = __tsan_create_fiber(0);
#endif
  }
  for (;;) {
    std::shuffle(order.begin(), order.end(), random);
    bool progress = false;
    for (unsigned n : order)
      if (block.fibers[n].state == State::kReady) to_fiber(block.fibers[n]), progress = true;
    if (all_at(State::kDone, 0, threads)) break;
    for (unsigned begin = 0; begin < threads; begin += kWarp)
      if (all_at(State::kAtWarpBarrier, begin, std::min(begin + kWarp, threads)))
        release(begin, std::min(begin + kWarp, threads)), progress = true;
    if (all_at(State::kAtBlockBarrier, 0, threads)) release(0, threads), progress = true;
    if (!progress) fail("a barrier is not reached by all threads");
  }
#if defined(__SANITIZE_THREAD__)
  for (Fiber& fiber : block.fibers) __tsan_destroy_fiber(fiber.sanitizer);
#endif
  block.shared.clear();
}

inline void wait(State state) {
  block.current->state = state;
  to_scheduler();
}

inline unsigned char* shared_piece(size_t offset, size_t bytes) {
  if (offset + bytes > block.shared_limit) fail("more shared memory than the launch asked for");
  auto& piece = block.shared[offset];
  if (!piece) {
    piece.reset(new unsigned char[bytes]);
    std::memset(piece.get(), 0xff, bytes);
  }
  return piece.get();
}

// The `value` that lane `source` of the same warp offers. All lanes take part.
template <class T>
T exchange(T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(Fiber::slot), "");
  std::memcpy(block.current->slot, &value, sizeof(T));
  wait(State::kAtWarpBarrier);
  std::memcpy(&value, block.fibers[block.current->index / kWarp * kWarp + source].slot, sizeof(T));
  wait(State::kAtWarpBarrier);
  return value;
}

inline unsigned lane() { return block.current->index % kWarp; }

}  // namespace emulation

#define threadIdx dim3(emulation::block.current->index, 0, 0)
#define blockIdx emulation::block.index
#define blockDim emulation::block.size
#define gridDim emulation::block.grid

inline void __syncthreads() { emulation::wait(emulation::State::kAtBlockBarrier); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::exchange(value, emulation::lane() ^ unsigned(mask));
}

using std::max;
using std::min;

// Number formats

struct __half {
  unsigned short bits;
};
struct __nv_bfloat16 {
  unsigned short bits;
};
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }

inline float __half2float(__half value) {
  const unsigned sign = (value.bits & 0x8000u) << 16, exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  const float magnitude =
      exponent ? std::ldexp(float(1024 + fraction), int(exponent) - 25) : std::ldexp(float(fraction), -24);
  return sign ? -magnitude : magnitude;
}
inline __half __float2half_rn(float value) {
  const unsigned short sign = __float_as_uint(value) >> 16 & 0x8000;
  const float magnitude = std::fabs(value);
  if (magnitude != magnitude) return {0x7fff};
  if (magnitude >= 65520) return {static_cast<unsigned short>(sign | 0x7c00)};
  int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), -14) : -14;
  const float steps = std::nearbyint(std::ldexp(magnitude, 10 - exponent));  // ties to even
  return {static_cast<unsigned short>(sign + ((exponent + 14) << 10) + int(steps))};
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const unsigned bits = __float_as_uint(value);
  if (value != value) return {0x7fff};
  return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// The runtime

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInvalidDevice = 101 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };

inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = emulation::settings.processors, cudaSuccess;
}
inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
  }
  return "cudaErrorUnknown";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidDevice ? "invalid device ordinal" : cudaGetErrorName(error);
}

// What platform.h builds on it

namespace kan_cuda {

template <class T>
T approximate_reciprocal(T value) {
  return 1 / value;
}

class SharedMemory {
  size_t used_ = 0;

 public:
  template <class U>
  U* take(size_t count) {
    auto* piece = emulation::shared_piece(used_, count * sizeof(U));
    used_ += (count * sizeof(U) + 15) / 16 * 16;
    return reinterpret_cast<U*>(piece);
  }
};

template <class... P>
cudaError_t launch_kernel(void (*kernel)(P...), dim3 blocks, int threads, size_t shared, cudaStream_t, P... arguments) {
  using emulation::block;
  if (shared > 48 * 1024 || threads > 1024 || threads % emulation::kWarp) return cudaErrorInvalidConfiguration;
  block.size = dim3(threads);
  block.grid = blocks;
  block.shared_limit = shared;
  block.fibers.resize(threads);
  block.kernel = [&] { kernel(arguments...); };
#if defined(__SANITIZE_THREAD__)
  block.scheduler_sanitizer = __tsan_get_current_fiber();
#endif
  std::mt19937 random(emulation::settings.seed);
  std::vector<unsigned> order(size_t(blocks.x) * blocks.y * blocks.z);
  for (unsigned n = 0; n < order.size(); ++n) order[n] = n;
  std::shuffle(order.begin(), order.end(), random);
  for (unsigned n : order) {
    block.index = dim3(n % blocks.x, n / blocks.x % blocks.y, n / blocks.x / blocks.y);
    emulation::run_block(random);
  }
  return cudaSuccess;
}

}  // namespace kan_cuda
