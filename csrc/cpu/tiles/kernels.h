// The inner kernels as tables of functions: one for every width of a tile and every number of rows.
#pragma once

#include "cpu/tiles/tiles.h"

namespace kan {
namespace {

// The kernels for one tile width.
template <class C>
struct TileOps {
  int vectors;
  void (*forward)(const Plan<C>&, int, const C*, const C*, const C*, const C*, C*, Prefetch&);
  void (*grad_input)(const Plan<C>&, int, const C*, const Differences<C>&, const C*, const C*, C*, bool, Prefetch&);
  void (*grad_coef)(const Plan<C>&, int, const C*, C*, C*, Prefetch&);
  void (*magnitude)(const Plan<C>&, int, const C*, const C*, C*);
  void (*magnitude_backward)(const Plan<C>&, int, const C*, const C*, const C*, C*, bool, C*, C*);
};

template <class C, int S, bool B, int NZ>
constexpr TileOps<C> tile_ops() {
  using T = Tile<C, S, B, NZ>;
  return {NZ, T::forward, T::grad_input, T::grad_coef, T::magnitude, T::magnitude_backward};
}

// The kernels for wide tiles, and those for tiles of one vector, which take the outputs that are left.
template <class C>
struct Kernel {
  TileOps<C> wide, narrow;
};

template <class C, int S, bool B>
constexpr Kernel<C> kernel() {
  constexpr int rows = S + B, wide = KAN_REGISTERS == 32 ? (rows <= 5 ? 4 : 2) : (rows <= 5 ? 2 : 1);
  return {tile_ops<C, S, B, wide>(), tile_ops<C, S, B, 1>()};
}

template <class C>
const Kernel<C>& kernel_of(int spline_rows, bool base) {
  static constexpr Kernel<C> table[][2] = {
      {kernel<C, 0, true>(), kernel<C, 0, true>()},  {kernel<C, 1, false>(), kernel<C, 1, true>()},
      {kernel<C, 2, false>(), kernel<C, 2, true>()}, {kernel<C, 3, false>(), kernel<C, 3, true>()},
      {kernel<C, 4, false>(), kernel<C, 4, true>()}, {kernel<C, 5, false>(), kernel<C, 5, true>()},
      {kernel<C, 6, false>(), kernel<C, 6, true>()}};
  return table[spline_rows][base];
}

}  // namespace
}  // namespace kan
