// The inner kernels: one feature, one tile of samples sorted by cell, one tile of outputs.
//
// Samples of one cell meet the same rows, so the rows stay in registers while the samples pass by: per sample and
// vector of outputs there is one load besides the multiply-adds. S is the number of spline rows (0: none), B tells
// whether there is a base row, NZ is the number of vectors in a tile of outputs.
#pragma once

#include "plan.h"

namespace kan {
namespace {

// Long sums are sums of sums of this many terms, which keeps their rounding errors small.
constexpr int64_t kSumBlock = 16;

template <class C, int S, bool B, int NZ>
struct Tile {
  using V = Vec<C>;
  static constexpr int lanes = kLanes<C>, outs = NZ * lanes, width = S <= 4 ? 4 : 8;

  // The weights of one sample in all lanes: read once, before any store that the compiler could take to change them.
  struct Weights {
    V row[S + 1];

    Weights(const C* spline, const C* base, int64_t id) {
#pragma GCC unroll 8
      for (int j = 0; j < S; j++) row[j] = splat<V>(spline[id * width + j]);
      row[S] = B ? splat<V>(base[id]) : V{};
    }
  };

  struct Rows {
    V row[S + 1][NZ];

    void load_spline(const C* panel, int cell) {
#pragma GCC unroll 8
      for (int j = 0; j < S; j++)
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) row[j][z] = load<V>(panel + (cell + j) * outs + z * lanes);
    }
    void load_base(const C* base) {
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) row[S][z] = B ? load<V>(base + z * lanes) : V{};
    }
    void clear() {
#pragma GCC unroll 8
      for (int j = 0; j <= S; j++)
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) row[j][z] = V{};
    }
    void add_spline(C* panel, int cell) {
#pragma GCC unroll 8
      for (int j = 0; j < S; j++)
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) {
          C* p = panel + (cell + j) * outs + z * lanes;
          store(p, load<V>(p) + row[j][z]);
          row[j][z] = V{};
        }
    }
    void add_base(C* base) {
#pragma GCC unroll 4
      for (int z = 0; z < NZ && B; z++) store(base + z * lanes, load<V>(base + z * lanes) + row[S][z]);
    }
    // sum over the rows of weight * row
    V combine(const Weights& w, int z, V sum) const {
#pragma GCC unroll 8
      for (int j = 0; j < S; j++) sum += w.row[j] * row[j][z];
      return B ? sum + w.row[S] * row[S][z] : sum;
    }
    // row += weight * g
    void accumulate(const Weights& w, int z, V g) {
#pragma GCC unroll 8
      for (int j = 0; j < S; j++) row[j][z] += w.row[j] * g;
      if (B) row[S][z] += w.row[S] * g;
    }
  };

  // y[id] = from[id] + sum of weight * row + more[id]; null stands for zeros
  static void forward(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* from, const C* more,
                      C* y) {
    if (more) {
      from ? forward_of<true, true>(plan, cells, panel, base, from, more, y)
           : forward_of<false, true>(plan, cells, panel, base, from, more, y);
    } else {
      from ? forward_of<true, false>(plan, cells, panel, base, from, more, y)
           : forward_of<false, false>(plan, cells, panel, base, from, more, y);
    }
  }

  template <bool From, bool More>
  static void forward_of(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* from, const C* more,
                         C* y) {
    Rows c;
    c.load_base(base);
    for (int cell = 0; cell < cells; cell++) {
      if (plan.start[cell] == plan.start[cell + 1]) continue;
      c.load_spline(panel, cell);
      for (int64_t q = plan.start[cell]; q < plan.start[cell + 1]; q++) {
        const int64_t id = plan.id[q];
        const int64_t at = id * outs;
        const Weights w(plan.value, plan.base, id);
        V sum[NZ];
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) sum[z] = c.combine(w, z, From ? load<V>(from + at + z * lanes) : V{});
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) {
          store(y + at + z * lanes, More ? sum[z] + load<V>(more + at + z * lanes) : sum[z]);
        }
      }
    }
  }

  // sums[id] = g[id] * sum of slope * row, lane by lane; added to what is there unless this is the first tile
  static void grad_input(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* g, C* sums,
                         bool first) {
    if (S > 1 && plan.slopes_cancel) {
      grad_input_of_rows<true>(plan, cells, panel, base, g, sums, first);
    } else {
      grad_input_of_rows<false>(plan, cells, panel, base, g, sums, first);
    }
  }

  // Where the slopes of a sample's spline rows add up to 0, the rows minus their first one give the same sum, and one
  // product less is needed.
  template <bool Differences>
  static void grad_input_of_rows(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* g, C* sums,
                                 bool first) {
    constexpr int skip = Differences;
    Rows c;
    c.load_base(base);
    for (int cell = 0; cell < cells; cell++) {
      if (plan.start[cell] == plan.start[cell + 1]) continue;
      c.load_spline(panel, cell);
#pragma GCC unroll 8
      for (int j = 1; j < S && Differences; j++)
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) c.row[j][z] -= c.row[0][z];
      for (int64_t q = plan.start[cell]; q < plan.start[cell + 1]; q++) {
        const int64_t id = plan.id[q];
        const C* row = g + id * outs;
        const Weights w(plan.slope, plan.base_slope, id);
        V dot[S + 1] = {};
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) {
          const V gz = load<V>(row + z * lanes);
#pragma GCC unroll 8
          for (int j = skip; j < S + B; j++) dot[j] = z == 0 ? gz * c.row[j][z] : dot[j] + gz * c.row[j][z];
        }
        V sum = first ? V{} : load<V>(sums + id * lanes);
#pragma GCC unroll 8
        for (int j = skip; j < S + B; j++) sum += w.row[j] * dot[j];
        store(sums + id * lanes, sum);
      }
    }
  }

  // rows += weight * g[id]
  static void grad_coef(const Plan<C>& plan, int cells, const C* g, C* panel, C* base) {
    Rows c;
    c.clear();
    for (int cell = 0; cell < cells; cell++) {
      if (plan.start[cell] == plan.start[cell + 1]) continue;
      for (int64_t q = plan.start[cell]; q < plan.start[cell + 1]; q++) {
        const int64_t id = plan.id[q];
        const C* row = g + id * outs;
        const Weights w(plan.value, plan.base, id);
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) c.accumulate(w, z, load<V>(row + z * lanes));
      }
      c.add_spline(panel, cell);
    }
    c.add_base(base);
  }

  // sums += |phi|
  static void magnitude(const Plan<C>& plan, int cells, const C* panel, const C* base, C* sums) {
    Rows c;
    c.load_base(base);
    V sum[NZ] = {};
    for (int cell = 0; cell < cells; cell++) {
      if (plan.start[cell] == plan.start[cell + 1]) continue;
      c.load_spline(panel, cell);
      for (int64_t q0 = plan.start[cell]; q0 < plan.start[cell + 1]; q0 += kSumBlock) {
        V part[NZ] = {};
        for (int64_t q = q0; q < smaller(q0 + kSumBlock, plan.start[cell + 1]); q++) {
          const Weights w(plan.value, plan.base, plan.id[q]);
#pragma GCC unroll 4
          for (int z = 0; z < NZ; z++) {
            const V phi = c.combine(w, z, V{});
            part[z] += phi < 0 ? -phi : phi;
          }
        }
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) sum[z] += part[z];
      }
    }
#pragma GCC unroll 4
    for (int z = 0; z < NZ; z++) store(sums + z * lanes, load<V>(sums + z * lanes) + sum[z]);
  }

  // sums[id] += scale * sign(phi) * sum of slope * row, and d_rows += scale * value * sign(phi). One vector of outputs
  // at a time: two sets of rows would not fit in the registers otherwise.
  static void magnitude_backward(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* scale, C* sums,
                                 bool first, C* d_panel, C* d_base) {
    using One = Tile<C, S, B, 1>;
    for (int z = 0; z < NZ; z++) {
      typename One::Rows c, d;
      d.clear();
      c.row[S][0] = B ? load<V>(base + z * lanes) : V{};
      const V factor = load<V>(scale + z * lanes);
      for (int cell = 0; cell < cells; cell++) {
        if (plan.start[cell] == plan.start[cell + 1]) continue;
#pragma GCC unroll 8
        for (int j = 0; j < S; j++) c.row[j][0] = load<V>(panel + (cell + j) * outs + z * lanes);
        for (int64_t q = plan.start[cell]; q < plan.start[cell + 1]; q++) {
          const int64_t id = plan.id[q];
          const typename One::Weights w(plan.value, plan.base, id), slope(plan.slope, plan.base_slope, id);
          const V phi = c.combine(w, 0, V{});
          const V sign = phi > 0 ? splat<V>(C(1)) : phi < 0 ? splat<V>(C(-1)) : phi;
          d.accumulate(w, 0, sign);
          const V sum = first && z == 0 ? V{} : load<V>(sums + id * lanes);
          store(sums + id * lanes, sum + sign * factor * c.combine(slope, 0, V{}));
        }
#pragma GCC unroll 8
        for (int j = 0; j < S; j++) {
          C* p = d_panel + (cell + j) * outs + z * lanes;
          store(p, load<V>(p) + factor * d.row[j][0]);
          d.row[j][0] = V{};
        }
      }
      if (B) store(d_base + z * lanes, load<V>(d_base + z * lanes) + factor * d.row[S][0]);
    }
  }
};

// The kernels for one tile width.
template <class C>
struct TileOps {
  int vectors;
  void (*forward)(const Plan<C>&, int, const C*, const C*, const C*, const C*, C*);
  void (*grad_input)(const Plan<C>&, int, const C*, const C*, const C*, C*, bool);
  void (*grad_coef)(const Plan<C>&, int, const C*, C*, C*);
  void (*magnitude)(const Plan<C>&, int, const C*, const C*, C*);
  void (*magnitude_backward)(const Plan<C>&, int, const C*, const C*, const C*, C*, bool, C*, C*);
};

template <class C, int S, bool B, int NZ>
constexpr TileOps<C> tile_ops() {
  using T = Tile<C, S, B, NZ>;
  return {NZ, T::forward, T::grad_input, T::grad_coef, T::magnitude, T::magnitude_backward};
}

// Wide tiles and one-vector tiles for what is left of the outputs.
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
