// Copies between the tensors of the caller and the workspace: transposed tiles, in the computing type.
#pragma once

#include "cpu/simd/avx512.h"
#include "cpu/tuning.h"

namespace kan {
namespace {

// Hands out aligned parts of one block of memory; without memory it measures how much is needed. It leaves a cache line
// between parts, because many of them have sizes of whole pages: side by side, they would begin in the same sets of the
// first-level cache.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}

  template <class T>
  T* take(int64_t count) {
    T* p = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += round_up(count * int64_t(sizeof(T)), tuning::kCacheLine) + tuning::kCacheLine;
    return p;
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// target[c][r] = source[r][c]. A row of `target` has `padded` numbers, which are whole vectors, and 0 where r >= rows.
// The number of rows for which `target` has room is rounded up to whole vectors too.
template <class S>
void pack_transposed(const S* source, int64_t source_stride, int64_t rows, int64_t columns, Compute<S>* target,
                     int64_t padded) {
  using C = Compute<S>;
  constexpr int lanes = kLanes<C>;
  for (int64_t r = 0; r < padded; r += lanes) {
    for (int64_t c = 0; c < columns; c += lanes) {
      Vec<C> block[lanes];
      const int64_t width = columns - c;
      if (rows - r >= lanes && width >= lanes) {
#pragma GCC unroll 16
        for (int k = 0; k < lanes; k++) block[k] = fetch(source + (r + k) * source_stride + c);
      } else {
        for (int k = 0; k < lanes; k++) {
          block[k] = r + k < rows ? fetch(source + (r + k) * source_stride + c, width) : Vec<C>{};
        }
      }
      transpose(block);
      const int64_t count = smaller(lanes, width);
      if (count == lanes) {
#pragma GCC unroll 16
        for (int k = 0; k < lanes; k++) store(target + (c + k) * padded + r, block[k]);
      } else {
        for (int k = 0; k < count; k++) store(target + (c + k) * padded + r, block[k]);
      }
    }
  }
}

// The inverse: target[r][c] = factor * source[c][r]. large: the target is larger than the caches, so it is written past
// them, which saves reading the lines that are overwritten.
template <class S>
void unpack_transposed(const Compute<S>* source, int64_t padded, S* target, int64_t target_stride, int64_t rows,
                       int64_t columns, bool large = false, Compute<S> factor = 1) {
  using C = Compute<S>;
  constexpr int lanes = kLanes<C>;
  const auto aligned = [](int64_t bytes) { return bytes % KAN_VECTOR_BYTES == 0; };
  const bool past_caches = kStream && sizeof(S) == sizeof(C) && large && aligned(reinterpret_cast<int64_t>(target)) &&
                           aligned(target_stride * sizeof(S));
  for (int64_t r = 0; r < rows; r += lanes) {
    for (int64_t c = 0; c < columns; c += lanes) {
      Vec<C> block[lanes];
      const int64_t width = columns - c;
#pragma GCC unroll 16
      for (int k = 0; k < lanes && !past_caches; k++) {
        __builtin_prefetch(target + (r + lanes + k) * target_stride + c, 1);
      }
      if (width >= lanes) {
#pragma GCC unroll 16
        for (int k = 0; k < lanes; k++) block[k] = load<Vec<C>>(source + (c + k) * padded + r) * factor;
      } else {
        for (int k = 0; k < lanes; k++) {
          block[k] = k < width ? load<Vec<C>>(source + (c + k) * padded + r) * factor : Vec<C>{};
        }
      }
      transpose(block);
      const int64_t count = smaller(lanes, rows - r);
      if constexpr (kStream) {
        if (past_caches && width >= lanes) {
          for (int k = 0; k < count; k++) {
            stream(reinterpret_cast<C*>(target + (r + k) * target_stride + c), block[k]);
          }
          continue;
        }
      }
      for (int k = 0; k < count; k++) put(target + (r + k) * target_stride + c, block[k], width);
    }
  }
  if (past_caches) end_of_stream();
}

// target[r] = source[r] with `padded` numbers per row, 0 beyond the columns.
template <class S>
void pack_rows(const S* source, int64_t source_stride, int64_t rows, int64_t columns, Compute<S>* target,
               int64_t padded) {
  constexpr int lanes = kLanes<Compute<S>>;
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < padded; c += lanes) {
      store(target + r * padded + c, fetch(source + r * source_stride + c, columns - c));
    }
  }
}

}  // namespace
}  // namespace kan
