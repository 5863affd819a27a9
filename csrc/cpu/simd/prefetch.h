// Prefetching: the kernels ask for memory before they need it, a few lines at a time.
#pragma once

#include "cpu/simd/simd.h"
#include "cpu/tuning.h"

namespace kan {
namespace {

// Asks for rows of `bytes` bytes at distance `stride` in `steps` steps. Many lines at once would keep the loads of the
// kernels waiting.
class Prefetch {
 public:
  Prefetch() = default;
  Prefetch(const void* first, int64_t rows, int64_t bytes, int64_t stride, int64_t steps)
      : row_(static_cast<const char*>(first)),
        lines_(rows * ceil_div(bytes, line)),
        bytes_(bytes),
        stride_(stride),
        steps_(steps) {}

  void step() {
    for (owed_ += lines_; owed_ >= steps_; owed_ -= steps_) {
      __builtin_prefetch(row_ + at_, 0, 2);
      at_ += line;
      if (at_ >= bytes_) {
        at_ = 0;
        row_ += stride_;
      }
    }
  }

 private:
  static constexpr int64_t line = tuning::kCacheLine;
  const char* row_ = nullptr;
  int64_t lines_ = 0, bytes_ = 0, stride_ = 0, steps_ = 1, at_ = 0, owed_ = 0;
};

}  // namespace
}  // namespace kan
