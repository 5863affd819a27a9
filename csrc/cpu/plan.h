// The plan of one feature and one tile of samples: samples sorted by cell, with the values of their basis rows.
#pragma once

#include "pieces.h"

namespace kan {
namespace {

// s = sigmoid(x), its derivative p = s (1 - s), and t = s - 1/2, each accurate where it is small.
template <class C>
struct Sigmoid {
  Vec<C> s, p, t;

  explicit Sigmoid(Vec<C> x) {
    const Vec<C> tail = C(1) / (C(1) + exp<C>(x < 0 ? -x : x)), rest = C(1) - tail;
    s = x < 0 ? tail : rest;
    p = tail * rest;
    t = x < 0 ? tail - C(0.5) : C(0.5) - tail;
  }
};

// The d-th derivative of the base function. silu = x s, so silu^(d) = x s^(d) + d s^(d-1), where s^(n) = p Q_n(t) for
// n > 0: Q_1 = 1 and Q_(n+1) = (1/4 - t^2) Q_n' - 2 t Q_n, because t' = p = 1/4 - t^2. Polynomials in s itself would
// cancel more.
template <class C>
struct BaseFunction {
  static constexpr int max_order = 20;
  Base kind;
  int order;
  C outer[max_order + 1], inner[max_order + 1];  // Q_d and d Q_(d-1)

  BaseFunction(Base base, int d) : kind(base), order(d), outer{}, inner{} {
    double q[max_order + 2] = {1};
    for (int n = 1; n <= d; n++) {
      for (int j = 0; j < n; j++) {
        if (n == d) outer[j] = C(q[j]);
        if (n == d - 1) inner[j] = C(d * q[j]);
      }
      double next[max_order + 2] = {};
      for (int j = 0; j < n; j++) {
        if (j > 0) next[j - 1] += j * q[j] / 4;
        next[j + 1] -= (j + 2) * q[j];
      }
      for (int j = 0; j <= n; j++) q[j] = next[j];
    }
  }

  Vec<C> operator()(Vec<C> x, Sigmoid<C> sigmoid) const {
    using V = Vec<C>;
    if (kind == Base::identity && order <= 1) return order == 0 ? x : x * C(0) + C(1);
    if (kind != Base::silu) return x * C(0);
    if (order == 0) return x * sigmoid.s;
    V a = {}, b = {};
    for (int j = order - 1; j >= 0; j--) {
      a = a * sigmoid.t + outer[j];
      b = b * sigmoid.t + inner[j];
    }
    const V value = sigmoid.p * (x * a + b);
    return order == 1 ? value + sigmoid.s : value;
  }
};

// Cell c holds the samples id[start[c]] .. id[start[c + 1] - 1]. The weights lie in the order of the samples: `width`
// padded spline rows each, and the base row apart.
template <class C>
struct Plan {
  int32_t *start, *id;
  C *value, *base;
  C *slope, *base_slope;  // the derivatives of one order more, where wanted
  bool slopes_cancel;     // the slopes of every sample add up to 0, as those of a partition of unity do
};

// What all plans of one call have in common.
template <class C>
struct Basis {
  Pieces<C> pieces;
  BaseFunction<C> base, base_slope;
  bool has_spline, has_base;

  int cells() const { return has_spline ? pieces.grid_size : 1; }
};

// Workspace of make_plan for a tile of n samples.
template <class C>
struct PlanScratch {
  C* clamped;
  int32_t *piece, *cell, *next;  // next: one per cell

  template <class Arena>
  PlanScratch(Arena& arena, int64_t n, int cells)
      : clamped(arena.template take<C>(round_up(n, kLanes<C>))),
        piece(arena.template take<int32_t>(n)),
        cell(arena.template take<int32_t>(round_up(n, 16))),
        next(arena.template take<int32_t>(cells + 1)) {}
};

// Sorts the samples by cell.
inline void sort_by_cell(const int32_t* cell, int64_t n, int cells, int32_t* next, int32_t* start, int32_t* id) {
  for (int c = 0; c <= cells; c++) next[c] = 0;
  for (int64_t b = 0; b < n; b++) next[cell[b]]++;
  int32_t total = 0;
  for (int c = 0; c < cells; c++) {
    start[c] = total;
    total += next[c];
    next[c] = start[c];
  }
  start[cells] = total;
  for (int64_t b = 0; b < n; b++) id[next[cell[b]]++] = b;
}

template <class C>
void make_base(const Basis<C>& basis, const C* x, const C* v, int64_t n, Plan<C>& plan) {
  using V = Vec<C>;
  for (int64_t b = 0; b < n; b += kLanes<C>) {
    const V xs = load<V>(x + b);
    const Sigmoid<C> s(basis.base.kind == Base::silu ? xs : V{});
    const V value = basis.base(xs, s);
    store(plan.base + b, v ? value * load<V>(v + b) : value);
    if (plan.slope) store(plan.base_slope + b, basis.base_slope(xs, s));
  }
}

// The inputs of one feature: n of them, padded to whole vectors; v: their factors, or null.
template <class C>
struct Samples {
  const C *x, *v;
  int64_t n;
};

// Infinite inputs are brought to where u is finite; only a linear continuation goes on to there.
template <class C>
struct Range {
  C low, high;

  Range(const Pieces<C>& g, const C* bounds) {
    const C far = sizeof(C) == 4 ? C(1e34) : C(1e300);
    low = g.poison_infinite ? -far : bounds[0];
    high = g.poison_infinite ? far : bounds[g.bounds - 1];
  }
  Vec<C> clamp(Vec<C> x) const {
    x = x < low ? splat<Vec<C>>(low) : x;
    return x > high ? splat<Vec<C>>(high) : x;
  }
};

// Horner's rule for the rows and for their derivatives in u. coefficient(q) gives the rows of u^q. The products with 0
// keep NaN where no power of u is left.
template <int K, bool Slope, class V, class U, class Coefficient>
inline void evaluate(U u, V& value, V& slope, Coefficient coefficient) {
  value = coefficient(K);
  slope = K > 1 ? value : V{} + u * 0;
  if (K == 0) value += u * 0;
#pragma GCC unroll 6
  for (int q = K - 1; q >= 0; q--) {
    if (Slope && (K < 2 || q < K - 1)) slope = slope * u + value;
    value = value * u + coefficient(q);
  }
}

// Where the samples of one feature lie: their pieces, with all bounds in registers, and u there.
template <class C>
struct Locator {
  using V = Vec<C>;
  using I = IntVec<C>;
  struct Place {
    I piece;
    V u, inverse;
  };
  Range<C> range;
  V bound[2], origin[2], inverse[2];

  Locator(const Pieces<C>& g, int64_t feature) : range(g, g.bounds_of(feature)) {
    const C* tables[] = {g.bounds_of(feature), g.columns_of(feature), g.columns_of(feature) + 2 * kLanes<C>};
    for (int half = 0; half < 2; half++) {
      bound[half] = load<V>(tables[0] + half * kLanes<C>);
      origin[half] = load<V>(tables[1] + half * kLanes<C>);
      inverse[half] = load<V>(tables[2] + half * kLanes<C>);
    }
  }
  Place operator()(V x) const {
    I piece = {};  // the number of bounds <= x
#pragma GCC unroll 5
    for (int half = kLanes<C>; half > 0; half /= 2) {
      piece += (lookup(bound[0], bound[1], piece + (half - 1)) <= x) & half;
    }
    const V scale = lookup(inverse[0], inverse[1], piece);
    return {piece, (range.clamp(x) - lookup(origin[0], origin[1], piece)) * scale, scale};
  }
};

// Weights and cells with all pieces in registers, a vector of samples at a time.
template <class C, int K, bool Slope>
void evaluate_by_lookup(const Pieces<C>& g, int64_t feature, Samples<C> s, int32_t* cell, Plan<C>& plan) {
  using V = Vec<C>;
  using I = IntVec<C>;
  constexpr int lanes = kLanes<C>, width = K < 4 ? 4 : 8;
  const C* columns = g.columns_of(feature);
  const Locator<C> locator(g, feature);
  const int cells = g.grid_size;
  for (int64_t b = 0; b < s.n; b += lanes) {
    const V x = load<V>(s.x + b);
    const auto [piece, u, inverse] = locator(x);
    const auto column = [&, piece = piece](int j) {
      return lookup(load<V>(columns + j * 2 * lanes), load<V>(columns + j * 2 * lanes + lanes), piece);
    };
    V value[width] = {}, slope[width] = {};
#pragma GCC unroll 6
    for (int row = 0; row <= K; row++) {
      evaluate<K, Slope>(u, value[row], slope[row], [&](int q) { return column(4 + q * width + row); });
      if (g.poison_infinite) value[row] += x - x;
      if (s.v) value[row] *= load<V>(s.v + b);
      slope[row] *= inverse;
    }
    transpose(value);
#pragma GCC unroll 8
    for (int j = 0; j < width; j++) store(plan.value + b * width + j * lanes, value[j]);
    if (Slope) {
      transpose(slope);
#pragma GCC unroll 8
      for (int j = 0; j < width; j++) store(plan.slope + b * width + j * lanes, slope[j]);
    }
    I c = piece - g.shift;
    c = c < 0 ? I{} : c;
    c = c >= cells ? I{} + (cells - 1) : c;
    store(cell + b, convert<typename Vector<int32_t, lanes>::Type>(c));
  }
}

// The same sample by sample, for any number of pieces.
template <class C, int K, bool Slope>
void evaluate_by_sample(const Pieces<C>& g, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  constexpr int width = K < 4 ? 4 : 8;
  using Rows = typename Vector<C, width>::Type;
  const C *bounds = g.bounds_of(feature), *table = g.piece(feature, 0);
  const Range<C> range(g, bounds);
  int32_t* piece = scratch.piece;
  for (int64_t b = 0; b < s.n; b += kLanes<C>) store(scratch.clamped + b, range.clamp(load<Vec<C>>(s.x + b)));
  // Binary search for the number of bounds <= x, all samples side by side.
  for (int64_t b = 0; b < s.n; b++) piece[b] = 0;
  for (int half = g.bound_stride / 2; half > 0; half /= 2) {
    for (int64_t b = 0; b < s.n; b++) piece[b] += bounds[piece[b] + half - 1] <= s.x[b] ? half : 0;
  }
  for (int64_t b = 0; b < s.n; b++) {
    const C* p = table + int64_t(piece[b]) * g.size;
    const C u = (scratch.clamped[b] - p[0]) * p[1];
    Rows value, slope;
    evaluate<K, Slope>(u, value, slope, [&](int q) { return load<Rows>(p + 4 + q * width); });
    if (g.poison_infinite) value += s.x[b] - s.x[b];
    if (s.v) value *= s.v[b];
    store(plan.value + b * width, value);
    if (Slope) store(plan.slope + b * width, slope * p[1]);
    const int32_t c = piece[b] - g.shift;
    scratch.cell[b] = c < 0 ? 0 : c >= g.grid_size ? g.grid_size - 1 : c;
  }
}

// B-splines add up to 1 inside of the range, and their continuations outside of it do so too, except for "zero".
template <class C>
bool add_up(const Pieces<C>& g, int64_t feature, Samples<C> s) {
  if (!g.extended) return true;
  const C *bounds = g.bounds_of(feature), low = bounds[g.degree], high = bounds[g.degree + g.grid_size];
  IntVec<C> inside = {};
  inside = inside == 0;
  for (int64_t b = 0; b < s.n; b += kLanes<C>) {
    const Vec<C> x = load<Vec<C>>(s.x + b);
    inside &= (x >= low) & (x < high);
  }
  for (int lane = 0; lane < kLanes<C>; lane++) {
    if (!inside[lane]) return false;
  }
  return true;
}

template <class C, int K, bool Slope>
void make_plan(const Basis<C>& basis, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  if (basis.has_base) make_base(basis, s.x, s.v, s.n, plan);
  if (!basis.has_spline) {
    plan.start[0] = 0;
    plan.start[1] = s.n;
    plan.slopes_cancel = false;
    for (int64_t b = 0; b < s.n; b++) plan.id[b] = b;
    return;
  }
  plan.slopes_cancel = add_up(basis.pieces, feature, s) && (Slope || basis.pieces.order > 0);
  if (kLookup && basis.pieces.columns) {
    evaluate_by_lookup<C, K, Slope>(basis.pieces, feature, s, scratch.cell, plan);
  } else {
    evaluate_by_sample<C, K, Slope>(basis.pieces, feature, s, scratch, plan);
  }
  constexpr int few = 16;
  if (kLookup && basis.cells() <= few) {
    for (int64_t b = s.n; b % few != 0; b++) scratch.cell[b] = -1;
    sort_by_few_cells(scratch.cell, s.n, basis.cells(), plan.start, plan.id);
  } else {
    sort_by_cell(scratch.cell, s.n, basis.cells(), scratch.next, plan.start, plan.id);
  }
}

template <class C>
using MakePlan = void (*)(const Basis<C>&, int64_t, Samples<C>, PlanScratch<C>&, Plan<C>&);

template <class C>
MakePlan<C> make_plan_of(int degree, bool slope) {
  constexpr MakePlan<C> table[][2] = {
      {make_plan<C, 0, false>, make_plan<C, 0, true>}, {make_plan<C, 1, false>, make_plan<C, 1, true>},
      {make_plan<C, 2, false>, make_plan<C, 2, true>}, {make_plan<C, 3, false>, make_plan<C, 3, true>},
      {make_plan<C, 4, false>, make_plan<C, 4, true>}, {make_plan<C, 5, false>, make_plan<C, 5, true>}};
  return table[degree][slope];
}

}  // namespace
}  // namespace kan
