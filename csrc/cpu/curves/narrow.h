// Transposed copies of matrices with few columns: one vector holds several of their rows.
#pragma once

#include "cpu/simd/pack.h"

namespace kan {
namespace {

// A vector has room for lanes / N rows of N numbers; only `columns` of each are used. spread_rows tells for each lane
// of such a vector the place of its number in packed rows, join_rows the reverse.
template <class C, int N>
IntVec<C> spread_rows(int64_t columns) {
  IntVec<C> index;
  for (int lane = 0; lane < kLanes<C>; lane++) index[lane] = lane / N * columns + lane % N;
  return index;
}
template <class C, int N>
IntVec<C> join_rows(int64_t columns) {
  IntVec<C> index;
  for (int lane = 0; lane < kLanes<C>; lane++) index[lane] = lane / columns % (kLanes<C> / N) * N + lane % columns;
  return index;
}

// Both functions copy whole vectors. Lanes beyond the rows of one vector are unused, or the next vector overwrites
// them.
template <class S, int N>
void pack_narrow(const S* source, int64_t rows, int64_t columns, Compute<S>* target, int64_t padded) {
  using C = Compute<S>;
  constexpr int lanes = kLanes<C>, per_vector = lanes / N;
  const IntVec<C> index = spread_rows<C, N>(columns);
  for (int64_t r = 0; r < padded; r += lanes) {
    Vec<C> v[N];
#pragma GCC unroll 8
    for (int k = 0; k < N; k++) {
      const int64_t row = r + k * per_vector;
      const Vec<C> packed = fetch(source + row * columns, (rows - row) * columns);
      v[k] = lookup(packed, index);
    }
#pragma GCC unroll 4
    for (int step = 1; step < lanes; step *= 2) rotate(v);
    for (int c = 0; c < columns; c++) store(target + c * padded + r, v[c]);
  }
}

template <class S, int N>
void unpack_narrow(const Compute<S>* source, int64_t padded, S* target, int64_t rows, int64_t columns) {
  using C = Compute<S>;
  constexpr int lanes = kLanes<C>, per_vector = lanes / N;
  const IntVec<C> index = join_rows<C, N>(columns);
  for (int64_t r = 0; r < rows; r += lanes) {
    Vec<C> v[N] = {};
    for (int c = 0; c < columns; c++) v[c] = load<Vec<C>>(source + c * padded + r);
#pragma GCC unroll 4
    for (int step = 1; step < N; step *= 2) rotate(v);
#pragma GCC unroll 8
    for (int k = 0; k < N; k++) {
      const int64_t row = r + k * per_vector;
      put(target + row * columns, lookup(v[k], index), (rows - row) * columns);
    }
  }
}

// Calls run(N) for the power of 2 that holds this many columns, up to 8.
template <class Run>
void padded_columns(int64_t columns, Run run) {
  if (columns == 1) return run(std::integral_constant<int, 1>{});
  if (columns == 2) return run(std::integral_constant<int, 2>{});
  if (columns <= 4) return run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, 8>{});
}

// pack_transposed and unpack_transposed, in less time if there are few columns and rows lie close together.
template <class S>
void pack_columns(const S* source, int64_t source_stride, int64_t rows, int64_t columns, Compute<S>* target,
                  int64_t padded) {
  if constexpr (kLookup) {
    if (columns == source_stride && columns <= 8) {
      return padded_columns(columns, [&](auto n) { pack_narrow<S, n>(source, rows, columns, target, padded); });
    }
  }
  pack_transposed(source, source_stride, rows, columns, target, padded);
}

template <class S>
void unpack_columns(const Compute<S>* source, int64_t padded, S* target, int64_t target_stride, int64_t rows,
                    int64_t columns) {
  if constexpr (kLookup) {
    if (columns == target_stride && columns <= 8) {
      return padded_columns(columns, [&](auto n) { unpack_narrow<S, n>(source, padded, target, rows, columns); });
    }
  }
  unpack_transposed(source, padded, target, target_stride, rows, columns);
}

}  // namespace
}  // namespace kan
