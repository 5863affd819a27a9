// The inner kernels: one feature, one tile of samples sorted by cell, one tile of outputs.
//
// Samples of one cell meet the same rows, so the rows stay in registers while the samples pass by: per sample and
// vector of outputs there is one load besides the multiply-adds. S is the number of spline rows (0: none), B tells
// whether there is a base row, NZ is the number of vectors in a tile of outputs.
#pragma once

#include <type_traits>

#include "plan.h"

namespace kan {
namespace {

// Long sums are sums of sums of this many terms, which keeps their rounding errors small.
constexpr int64_t kSumBlock = 16;

template <class C, int S, bool B, int NZ>
struct Tile {
  using V = Vec<C>;
  static constexpr int lanes = kLanes<C>, outs = NZ * lanes, width = S <= 4 ? 4 : 8;

  // The row of a sample in a matrix with `vectors` vectors per row.
  template <int vectors, class T>
  static T* row_of(T* matrix, int64_t offset) {
    using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
    return reinterpret_cast<T*>(reinterpret_cast<Byte*>(matrix) + offset * vectors);
  }

  // The weights of the sample at place q in all lanes.
  struct Weights {
    const C *spline, *base;

    V operator()(int j, int64_t q) const { return splat<V>(j < S ? spline[q * width + j] : base[q]); }
  };

  // The rows of a cell, and the base row.
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
    // sum[] += sum over the rows of weight * row
    void combine(Weights w, int64_t q, V (&sum)[NZ]) const {
#pragma GCC unroll 8
      for (int j = 0; j < S + B; j++) {
        const V weight = w(j, q);
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) sum[z] += weight * row[j][z];
      }
    }
    // row += weight * g
    void accumulate(Weights w, int64_t q, const V (&g)[NZ]) {
#pragma GCC unroll 8
      for (int j = 0; j < S + B; j++) {
        const V weight = w(j, q);
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) row[j][z] += weight * g[z];
      }
    }
  };

  // Calls enter(cell), sample(place in the plan, offset of its row) for the samples of the cell, and leave(cell). What
  // the loop reads is copied to locals first: the compiler takes every store for one that could change the plan.
  template <class Enter, class Sample, class Leave>
  static void for_cells(const Plan<C>& plan, int cells, Enter enter, Sample sample, Leave leave) {
    const int32_t *start = plan.start, *row = plan.row;
    int64_t q = 0;
    for (int cell = 0; cell < cells; cell++) {
      const int64_t end = start[cell + 1];
      if (q == end) continue;
      enter(cell);
      do {
        sample(q, int64_t(row[q]));
      } while (++q < end);
      leave(cell);
    }
  }

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
    const Weights weights{plan.value, plan.base};
    Rows c;
    c.load_base(base);
    for_cells(
        plan, cells, [&](int cell) { c.load_spline(panel, cell); },
        [&](int64_t q, int64_t offset) {
          const C *first = row_of<NZ>(from, offset), *last = row_of<NZ>(more, offset);
          C* target = row_of<NZ>(y, offset);
          V sum[NZ];
#pragma GCC unroll 4
          for (int z = 0; z < NZ; z++) sum[z] = From ? load<V>(first + z * lanes) : V{};
          c.combine(weights, q, sum);
#pragma GCC unroll 4
          for (int z = 0; z < NZ; z++) store(target + z * lanes, More ? sum[z] + load<V>(last + z * lanes) : sum[z]);
        },
        [](int) {});
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
    const Weights weights{plan.slope, plan.base_slope};
    Rows c;
    c.load_base(base);
    const auto enter = [&](int cell) {
      c.load_spline(panel, cell);
#pragma GCC unroll 8
      for (int j = 1; j < S && Differences; j++)
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) c.row[j][z] -= c.row[0][z];
    };
    const auto sample = [&](int64_t q, int64_t offset) {
      const C* row = row_of<NZ>(g, offset);
      V dot[S + 1] = {};
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) {
        const V gz = load<V>(row + z * lanes);
#pragma GCC unroll 8
        for (int j = skip; j < S + B; j++) dot[j] = z == 0 ? gz * c.row[j][z] : dot[j] + gz * c.row[j][z];
      }
      C* target = row_of<1>(sums, offset);
      V sum = first ? V{} : load<V>(target);
#pragma GCC unroll 8
      for (int j = skip; j < S + B; j++) sum += weights(j, q) * dot[j];
      store(target, sum);
    };
    for_cells(plan, cells, enter, sample, [](int) {});
  }

  // rows += weight * g[id]
  static void grad_coef(const Plan<C>& plan, int cells, const C* g, C* panel, C* base) {
    const Weights weights{plan.value, plan.base};
    Rows c;
    c.clear();
    for_cells(
        plan, cells, [](int) {},
        [&](int64_t q, int64_t offset) {
          const C* row = row_of<NZ>(g, offset);
          V gs[NZ];
#pragma GCC unroll 4
          for (int z = 0; z < NZ; z++) gs[z] = load<V>(row + z * lanes);
          c.accumulate(weights, q, gs);
        },
        [&](int cell) { c.add_spline(panel, cell); });
    c.add_base(base);
  }

  // sums += |phi|
  static void magnitude(const Plan<C>& plan, int cells, const C* panel, const C* base, C* sums) {
    const Weights weights{plan.value, plan.base};
    Rows c;
    c.load_base(base);
    V sum[NZ] = {}, part[NZ] = {};
    const auto add_part = [&] {
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) {
        sum[z] += part[z];
        part[z] = V{};
      }
    };
    for_cells(
        plan, cells, [&](int cell) { c.load_spline(panel, cell); },
        [&](int64_t q, int64_t) {
          V phi[NZ] = {};
          c.combine(weights, q, phi);
#pragma GCC unroll 4
          for (int z = 0; z < NZ; z++) part[z] += phi[z] < 0 ? -phi[z] : phi[z];
          if (q % kSumBlock == kSumBlock - 1) add_part();
        },
        [&](int) { add_part(); });
#pragma GCC unroll 4
    for (int z = 0; z < NZ; z++) store(sums + z * lanes, load<V>(sums + z * lanes) + sum[z]);
  }

  // sums[id] += scale * sign(phi) * sum of slope * row, and d_rows += scale * value * sign(phi). One vector of outputs
  // at a time: two sets of rows would not fit in the registers otherwise.
  static void magnitude_backward(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* scale, C* sums,
                                 bool first, C* d_panel, C* d_base) {
    using One = Tile<C, S, B, 1>;
    const typename One::Weights values{plan.value, plan.base}, slopes{plan.slope, plan.base_slope};
    for (int z = 0; z < NZ; z++) {
      typename One::Rows c, d;
      d.clear();
      c.row[S][0] = B ? load<V>(base + z * lanes) : V{};
      const V factor = load<V>(scale + z * lanes);
      const auto enter = [&](int cell) {
#pragma GCC unroll 8
        for (int j = 0; j < S; j++) c.row[j][0] = load<V>(panel + (cell + j) * outs + z * lanes);
      };
      const auto sample = [&](int64_t q, int64_t offset) {
        V phi[1] = {}, slope[1] = {};
        c.combine(values, q, phi);
        c.combine(slopes, q, slope);
        const V sign[1] = {phi[0] > 0 ? splat<V>(C(1)) : phi[0] < 0 ? splat<V>(C(-1)) : phi[0]};
        d.accumulate(values, q, sign);
        C* target = row_of<1>(sums, offset);
        const V sum = first && z == 0 ? V{} : load<V>(target);
        store(target, sum + sign[0] * factor * slope[0]);
      };
      const auto leave = [&](int cell) {
#pragma GCC unroll 8
        for (int j = 0; j < S; j++) {
          C* p = d_panel + (cell + j) * outs + z * lanes;
          store(p, load<V>(p) + factor * d.row[j][0]);
          d.row[j][0] = V{};
        }
      };
      for_cells(plan, cells, enter, sample, leave);
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
