// The inner kernels: one feature, one tile of samples sorted by cell, one tile of outputs.
//
// All samples of a cell need the same rows, so the rows stay in registers while the samples pass by. Each sample and
// vector of outputs then costs one load besides the multiply-adds. S is the number of spline rows (0: none), B tells
// whether there is a base row, NZ is the number of vectors in a tile of outputs.
#pragma once

#include <type_traits>

#include "cpu/basis/plan.h"
#include "cpu/simd/prefetch.h"

namespace kan {
namespace {

// Long sums are sums of sums of this many terms, which keeps their rounding errors small. It was chosen for accuracy,
// so it is not in tuning.h.
constexpr int64_t kSumBlock = 16;
// The sums of coefficient gradients are added to memory after this many terms, for the same reason. Shorter sums
// would cost time, because each reads and writes all rows of the cell.
constexpr int64_t kLongSum = 64;

// One feature, as slopes that are weights of differences (see Slopes) need it: their order m, the last coefficients
// c_j, and Pieces::permutation_of. A slope_order of 0 says that the slopes are weights of the rows themselves.
template <class C>
struct Differences {
  int slope_order;
  const C* last;
  const int32_t* permutation;
};

template <class C, int S, bool B, int NZ>
struct Tile {
  using V = Vec<C>;
  static constexpr int lanes = kLanes<C>, outs = NZ * lanes, width = S <= 4 ? 4 : 8, places = S > 0 ? S : 1,
                       rows_after = places - 1;

  // A sample's row in a matrix with `vectors` vectors per row; offset: as in Plan::offset.
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

  // The rows of a cell and the base row. Spline row r is always in register r % S. The next cell has the same rows but
  // one, and finds them in the same registers. P is the register of the cell's first row.
  struct Rows {
    V spline[S + 1][NZ], base[NZ];

    static void read(const C* from, V (&row)[NZ]) {
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) row[z] = load<V>(from + z * lanes);
    }
    // target += row, and row = 0
    static void add(V (&row)[NZ], C* target) {
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) {
        store(target + z * lanes, load<V>(target + z * lanes) + row[z]);
        row[z] = V{};
      }
    }
    static void clear(V (&row)[NZ]) {
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) row[z] = V{};
    }
    void clear() {
#pragma GCC unroll 8
      for (int j = 0; j < S; j++) clear(spline[j]);
      clear(base);
    }
    void read_base(const C* from) {
      if (B) read(from, base);
    }
    // read_first reads all rows of the first cell but the last one; read_last reads the last row of every cell. Both
    // move `panel` on to the row after.
    void read_first(const C*& panel, int stride = outs) {
#pragma GCC unroll 8
      for (int j = 0; j < S - 1; j++, panel += stride) read(panel, spline[j]);
    }
    template <int P>
    void read_last(const C*& panel, int stride = outs) {
      if constexpr (S > 0) read(panel, spline[(P + S - 1) % S]);
      panel += stride;
    }
    template <int P>
    const V (&row(int j) const)[NZ] {
      return j < S ? spline[(P + j) % places] : base;
    }
    // sum[] += sum over the rows of weight * row
    template <int P, class W>
    void combine(W w, int64_t q, V (&sum)[NZ]) const {
#pragma GCC unroll 8
      for (int j = 0; j < S + B; j++) {
        const V weight = w(j, q);
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) sum[z] += weight * row<P>(j)[z];
      }
    }
    // row += weight * g
    template <int P>
    void accumulate(Weights w, int64_t q, const V (&g)[NZ]) {
#pragma GCC unroll 8
      for (int j = 0; j < S + B; j++) {
        const V weight = w(j, q);
        V(&target)[NZ] = j < S ? spline[(P + j) % places] : base;
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) target[z] += weight * g[z];
      }
    }
  };

  struct NoPause {};

  // Visits the cells one after another. Each visit calls enter(P), then sample(P, q, offset) for every sample of the
  // cell, where q is its place in the plan and `offset` its Plan::offset, then leave(P), after which the cell's first
  // row is done. With rows > cells, leave is called for the other rows of the last cell too. P is that of Rows, a
  // constant. After every kLongSum samples of the plan, pause(P) is called, with the P of the cell of the last one. The
  // loop copies the plan's pointers to locals, since the compiler assumes that every store could change the plan.
  template <class Enter, class Sample, class Leave, class Pause = NoPause>
  static void for_cells(const Plan<C>& plan, int cells, int rows, Enter enter, Sample sample, Leave leave,
                        Pause pause = {}) {
    const int32_t *end = plan.start + 1, *offset = plan.offset;
    const int32_t *const last_cell = end + cells, *const last_row = end + rows;
    int64_t q = 0;
    const auto visit = [&](auto place) {
      if (end >= last_row) return;
      if (end < last_cell) {
        enter(place);
        const int64_t next = *end;
        if constexpr (!std::is_same_v<Pause, NoPause>) {
          for (int64_t stop = round_up(q + 1, kLongSum); stop <= next; stop += kLongSum) {
            for (; q < stop; q++) sample(place, q, int64_t(offset[q]));
            pause(place);
          }
        }
        for (; q < next; q++) sample(place, q, int64_t(offset[q]));
      }
      leave(place);
      end++;
    };
    while (end < last_row) visit_all(visit, std::make_integer_sequence<int, places>{});
  }
  template <class Visit, int... P>
  static void visit_all(Visit& visit, std::integer_sequence<int, P...>) {
    (visit(std::integral_constant<int, P>{}), ...);
  }

  // y[b] = from[b] + sum of weight * row + more[b] for every sample b; null stands for zeros. Here and below each cell
  // takes one step of `next`.
  static void forward(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* from, const C* more, C* y,
                      Prefetch& next) {
    if (more) {
      from ? forward_of<true, true>(plan, cells, panel, base, from, more, y, next)
           : forward_of<false, true>(plan, cells, panel, base, from, more, y, next);
    } else {
      from ? forward_of<true, false>(plan, cells, panel, base, from, more, y, next)
           : forward_of<false, false>(plan, cells, panel, base, from, more, y, next);
    }
  }

  template <bool From, bool More>
  static void forward_of(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* from, const C* more,
                         C* y, Prefetch& next) {
    const Weights weights{plan.value, plan.base};
    Rows c;
    c.read_base(base);
    c.read_first(panel);
    const auto enter = [&](auto place) {
      c.template read_last<place>(panel);
      next.step();
    };
    const auto sample = [&](auto place, int64_t q, int64_t offset) {
      const C *first = row_of<NZ>(from, offset), *last = row_of<NZ>(more, offset);
      C* target = row_of<NZ>(y, offset);
      V sum[NZ];
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) sum[z] = From ? load<V>(first + z * lanes) : V{};
      c.template combine<place>(weights, q, sum);
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) store(target + z * lanes, More ? sum[z] + load<V>(last + z * lanes) : sum[z]);
    };
    for_cells(plan, cells, cells, enter, sample, [](auto) {});
  }

  // sums[b] (+)= g[b] * sum of slope * row, lane by lane. The first tile sets the sums, the others add to them.
  static void grad_input(const Plan<C>& plan, int cells, const C* panel, const Differences<C>& differences,
                         const C* base, const C* g, C* sums, bool first, Prefetch& next) {
    first ? grad_input_of<true>(plan, cells, panel, differences, base, g, sums, next)
          : grad_input_of<false>(plan, cells, panel, differences, base, g, sums, next);
  }

  template <bool First>
  static void grad_input_of(const Plan<C>& plan, int cells, const C* panel, const Differences<C>& differences,
                            const C* base, const C* g, C* sums, Prefetch& next) {
    if constexpr (S > 1) {
      if (differences.slope_order > 0) {
        const int64_t n = plan.start[cells];
        grad_input_of_rows<First>(plan, 0, plan.below, panel, panel + outs, base, g, sums);
        grad_input_inside<First>(plan, cells, panel, differences, base, g, sums, next);
        grad_input_of_rows<First>(plan, n - plan.above, n, differences.last, panel + cells * outs, base, g, sums);
        return;
      }
    }
    for (int c = 0; c < cells; c++, panel += outs) {
      next.step();
      grad_input_of_rows<First>(plan, plan.start[c], plan.start[c + 1], panel, panel + outs, base, g, sums);
    }
  }

  // target (+)= g * sum
  template <bool First>
  static void add_products(const C* g, const V (&sum)[NZ], C* target) {
    V dot = First ? V{} : load<V>(target);
#pragma GCC unroll 4
    for (int z = 0; z < NZ; z++) dot += sum[z] * load<V>(g + z * lanes);
    store(target, dot);
  }

  // The samples at the places from q to `stop`, which all have the same rows: `first`, then those from `others` on.
  template <bool First>
  static void grad_input_of_rows(const Plan<C>& plan, int64_t q, int64_t stop, const C* first, const C* others,
                                 const C* base, const C* g, C* sums) {
    if (q == stop) return;
    const Weights weights{plan.slope, plan.base_slope};
    const int32_t* offsets = plan.offset;
    Rows c;
    c.read_base(base);
    if (S > 0) Rows::read(first, c.spline[0]);
#pragma GCC unroll 8
    for (int j = 1; j < S; j++) Rows::read(others + (j - 1) * outs, c.spline[j]);
    for (; q < stop; q++) {
      const int64_t offset = offsets[q];
      V sum[NZ] = {};
      c.template combine<0>(weights, q, sum);
      add_products<First>(row_of<NZ>(g, offset), sum, row_of<1>(sums, offset));
    }
  }

  // The samples inside of the range, by two products less than there are rows: see Slopes.
  template <bool First>
  static void grad_input_inside(const Plan<C>& plan, int cells, const C* e, const Differences<C>& differences,
                                const C* base, const C* g, C* sums, Prefetch& next) {
    constexpr int count = S - 2;  // of differences
    typename Tile<C, count, B, NZ>::Rows row;
    V constant[NZ] = {};
    row.read_base(base);
    const C* base_slope = plan.base_slope;
    const int32_t *offsets = plan.offset, *permutation = differences.permutation;
    const int64_t last = plan.start[cells] - plan.above;
    int64_t q = plan.below;
    for (int c = 0; c < cells; c++, e += outs, permutation += S - 1) {
      next.step();
      const int64_t stop = smaller(plan.start[c + 1], last);
      if (q == stop) continue;
      V head[NZ];
      Rows::read(e + permutation[0] * outs, head);
      const C* slope[count + 1];
#pragma GCC unroll 4
      for (int j = 0; j < count; j++) {
        const int other = permutation[j + 1];
        slope[j] = plan.slope + other;
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) row.spline[j][z] = load<V>(e + other * outs + z * lanes) - head[z];
      }
      if (differences.slope_order == 1) {
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) constant[z] = head[z];
      }
      for (; q < stop; q++) {
        const int64_t offset = offsets[q];
        V sum[NZ];
#pragma GCC unroll 4
        for (int z = 0; z < NZ; z++) sum[z] = constant[z];
        row.template combine<0>(
            [&](int j, int64_t q) { return splat<V>(j < count ? slope[j][q * width] : base_slope[q]); }, q, sum);
        add_products<First>(row_of<NZ>(g, offset), sum, row_of<1>(sums, offset));
      }
    }
  }

  // rows += weight * g[b]
  static void grad_coef(const Plan<C>& plan, int cells, const C* g, C* panel, C* base, Prefetch& next) {
    const Weights weights{plan.value, plan.base};
    Rows c;
    c.clear();
    const auto sample = [&](auto place, int64_t q, int64_t offset) {
      const C* row = row_of<NZ>(g, offset);
      V gs[NZ];
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) gs[z] = load<V>(row + z * lanes);
      c.template accumulate<place>(weights, q, gs);
    };
    const auto leave = [&](auto place) {
      if constexpr (S > 0) Rows::add(c.spline[place], panel);
      panel += outs;
    };
    const auto pause = [&](auto place) {
#pragma GCC unroll 8
      for (int j = 0; j < S; j++) Rows::add(c.spline[(place + j) % places], panel + j * outs);
      if (B) Rows::add(c.base, base);
    };
    for_cells(plan, cells, cells + rows_after, [&](auto) { next.step(); }, sample, leave, pause);
    if (B) Rows::add(c.base, base);
  }

  // sums += |phi|
  static void magnitude(const Plan<C>& plan, int cells, const C* panel, const C* base, C* sums) {
    const Weights weights{plan.value, plan.base};
    Rows c;
    c.read_base(base);
    c.read_first(panel);
    V sum[NZ] = {}, part[NZ] = {};
    const auto add_part = [&] {
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) {
        sum[z] += part[z];
        part[z] = V{};
      }
    };
    const auto enter = [&](auto place) { c.template read_last<place>(panel); };
    const auto sample = [&](auto place, int64_t q, int64_t) {
      V phi[NZ] = {};
      c.template combine<place>(weights, q, phi);
#pragma GCC unroll 4
      for (int z = 0; z < NZ; z++) part[z] += phi[z] < 0 ? -phi[z] : phi[z];
      if (q % kSumBlock == kSumBlock - 1) add_part();
    };
    for_cells(plan, cells, cells, enter, sample, [](auto) {});
    add_part();
#pragma GCC unroll 4
    for (int z = 0; z < NZ; z++) store(sums + z * lanes, load<V>(sums + z * lanes) + sum[z]);
  }

  // sums[b] += scale * sign(phi) * sum of slope * row, and d_rows += scale * value * sign(phi). It takes one vector of
  // outputs at a time, so that both sets of rows fit in the registers.
  static void magnitude_backward(const Plan<C>& plan, int cells, const C* panel, const C* base, const C* scale, C* sums,
                                 bool first, C* d_panel, C* d_base) {
    using One = typename Tile<C, S, B, 1>::Rows;
    const typename Tile<C, S, B, 1>::Weights values{plan.value, plan.base}, slopes{plan.slope, plan.base_slope};
    for (int z = 0; z < NZ; z++) {
      const C* from = panel + z * lanes;
      C* to = d_panel + z * lanes;
      One c, d;
      d.clear();
      if (B) One::read(base + z * lanes, c.base);
      c.read_first(from, outs);
      const V factor = load<V>(scale + z * lanes);
      const auto enter = [&](auto place) { c.template read_last<place>(from, outs); };
      const auto sample = [&](auto place, int64_t q, int64_t offset) {
        V phi[1] = {}, slope[1] = {};
        c.template combine<place>(values, q, phi);
        c.template combine<place>(slopes, q, slope);
        const V sign[1] = {phi[0] > 0 ? splat<V>(C(1)) : phi[0] < 0 ? splat<V>(C(-1)) : phi[0]};
        d.template accumulate<place>(values, q, sign);
        C* target = row_of<1>(sums, offset);
        const V sum = first && z == 0 ? V{} : load<V>(target);
        store(target, sum + sign[0] * factor * slope[0]);
      };
      const auto add = [&](V(&sum)[1], C* target) {
        sum[0] *= factor;
        One::add(sum, target);
      };
      const auto leave = [&](auto place) {
        if constexpr (S > 0) add(d.spline[place], to);
        to += outs;
      };
      const auto pause = [&](auto place) {
#pragma GCC unroll 8
        for (int j = 0; j < S; j++) add(d.spline[(place + j) % places], to + j * outs);
        if (B) add(d.base, d_base + z * lanes);
      };
      for_cells(plan, cells, cells + rows_after, enter, sample, leave, pause);
      if (B) add(d.base, d_base + z * lanes);
    }
  }
};

}  // namespace
}  // namespace kan
