// Workspaces of the kernels.
#include <stdlib.h>
#include <sys/mman.h>

#include <atomic>
#include <new>

#include "cpu/tuning.h"
#include "kernels.h"

namespace kan {
namespace {

// The memory of the last call, kept for the next one: the system clears fresh memory page by page at the first touch,
// which can take longer than the kernel. A call that finds it taken by another thread gets memory of its own.
struct Kept {
  std::atomic_flag taken = ATOMIC_FLAG_INIT;
  void* memory = nullptr;
  size_t bytes = 0;
};

Kept kept;

void* fresh(size_t bytes) {
  void* memory = nullptr;  // not std::aligned_alloc: macOS has had it only since 10.15
  if (posix_memalign(&memory, tuning::kCacheLine, bytes + tuning::kCacheLine)) return nullptr;
  use_huge_pages(memory, bytes);
  return memory;
}

}  // namespace

Memory::Memory(size_t bytes)
    : shared_(bytes <= tuning::kKeptBytes && !kept.taken.test_and_set(std::memory_order_acquire)) {
  if (!shared_) {
    data_ = fresh(bytes);
  } else if (bytes <= kept.bytes) {
    data_ = kept.memory;
  } else {
    free(kept.memory);
    data_ = kept.memory = fresh(bytes);
    kept.bytes = data_ ? bytes : 0;
    if (!data_) kept.taken.clear(std::memory_order_release);
  }
  if (!data_) throw std::bad_alloc();
}

Memory::~Memory() {
  if (shared_) {
    kept.taken.clear(std::memory_order_release);
  } else {
    free(data_);
  }
}

void use_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace kan
