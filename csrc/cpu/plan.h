// The plan of one feature and one tile of samples: samples sorted by cell, with the values of their basis rows.
#pragma once

#include "pieces.h"

namespace kan {
namespace {

// The d-th derivative of the base function at x is x * outer(s) + inner(s) with s = sigmoid(x): silu^(d) = x s^(d) +
// d s^(d-1), and s^(n) is a polynomial in s by s' = s - s^2.
template <class C>
struct BaseFunction {
  static constexpr int max_order = 20;
  Base kind;
  int order;
  C outer[max_order + 3], inner[max_order + 3];

  BaseFunction(Base base, int d) : kind(base), order(d) {
    double s[max_order + 3] = {0, 1}, previous[max_order + 3] = {};
    for (int n = 0; n < d; n++) {
      double next[max_order + 3] = {};
      for (int q = 1; q <= n + 1; q++) {
        next[q] += q * s[q];
        next[q + 1] -= q * s[q];
      }
      for (int q = 0; q <= n + 2; q++) {
        previous[q] = s[q];
        s[q] = next[q];
      }
    }
    for (int q = 0; q < max_order + 3; q++) {
      outer[q] = C(s[q]);
      inner[q] = C(d * previous[q]);
    }
  }

  Vec<C> operator()(Vec<C> x, Vec<C> sigmoid) const {
    using V = Vec<C>;
    if (kind == Base::identity && order <= 1) return order == 0 ? x : x * C(0) + C(1);
    if (kind != Base::silu) return x * C(0);
    if (order == 0) return x * sigmoid;
    V a = splat<V>(outer[order + 1]), b = splat<V>(inner[order + 1]);
    for (int q = order; q >= 0; q--) {
      a = a * sigmoid + outer[q];
      b = b * sigmoid + inner[q];
    }
    return x * a + b;
  }
};

template <class C>
inline Vec<C> sigmoid(Vec<C> x) {
  return C(1) / (C(1) + exp<C>(-x));
}

// Cell c holds the samples id[start[c]] .. id[start[c + 1] - 1]. The weights lie in the order of the samples: `width`
// padded spline rows each, and the base row apart.
template <class C>
struct Plan {
  int32_t *start, *id;
  C *value, *base;
  C *slope, *base_slope;  // the derivatives of one order more, where wanted
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
  C *clamped, *poison;
  int32_t *piece, *cell, *next;  // next: one per cell

  template <class Arena>
  PlanScratch(Arena& arena, int64_t n, int cells)
      : clamped(arena.template take<C>(round_up(n, kLanes<C>))),
        poison(arena.template take<C>(round_up(n, kLanes<C>))),
        piece(arena.template take<int32_t>(round_up(n, kLanes<C>))),
        cell(arena.template take<int32_t>(round_up(n, kLanes<C>))),
        next(arena.template take<int32_t>(cells + 1)) {}
};

// The number of bounds <= x. `size` bounds, padded by +inf, with size + 1 a power of 2.
template <class C>
inline int32_t count_up_to(const C* bounds, int size, C x) {
  int32_t low = 0;
  for (int half = (size + 1) / 2; half > 0; half /= 2) low += bounds[low + half - 1] <= x ? half : 0;
  return low;
}

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
    const V xs = load<V>(x + b), s = basis.base.kind == Base::silu ? sigmoid<C>(xs) : xs;
    const V value = basis.base(xs, s);
    store(plan.base + b, v ? value * load<V>(v + b) : value);
    if (plan.slope) store(plan.base_slope + b, basis.base_slope(xs, s));
  }
}

// Pieces and clamped inputs of n samples, one by one.
template <class C>
void find_pieces(const Pieces<C>& g, const C* bounds, const C* x, int64_t n, PlanScratch<C>& s) {
  for (int64_t b = 0; b < n; b++) s.piece[b] = count_up_to(bounds, g.bound_stride - 1, x[b]);
}

// x: the n inputs of the feature, padded to whole vectors. v: their factors, or null.
template <class C, int K, bool Slope>
void make_plan(const Basis<C>& basis, int64_t feature, const C* x, const C* v, int64_t n, PlanScratch<C>& s,
               Plan<C>& plan) {
  using V = Vec<C>;
  if (basis.has_base) make_base(basis, x, v, n, plan);
  const int cells = basis.cells();
  if (!basis.has_spline) {
    plan.start[0] = 0;
    plan.start[1] = n;
    for (int64_t b = 0; b < n; b++) plan.id[b] = b;
    return;
  }

  const Pieces<C>& g = basis.pieces;
  const C* bounds = g.bounds_of(feature);
  // Infinite inputs are brought to where u is finite; only a linear continuation goes on to there.
  const C far = sizeof(C) == 4 ? C(1e34) : C(1e300);
  const C low = g.poison_infinite ? -far : bounds[0], high = g.poison_infinite ? far : bounds[g.bounds - 1];
  for (int64_t b = 0; b < n; b += kLanes<C>) {
    const V xs = load<V>(x + b);
    V clamped = xs < low ? splat<V>(low) : xs;
    clamped = clamped > high ? splat<V>(high) : clamped;
    store(s.clamped + b, clamped);
    if (g.poison_infinite) store(s.poison + b, xs - xs);
  }
  find_pieces(g, bounds, x, n, s);
  for (int64_t b = 0; b < n; b++) {
    const int32_t c = s.piece[b] - g.shift;
    s.cell[b] = c < 0 ? 0 : c >= cells ? cells - 1 : c;
  }
  sort_by_cell(s.cell, n, cells, s.next, plan.start, plan.id);

  constexpr int width = K < 4 ? 4 : 8;
  using Rows = typename Vector<C, width>::Type;
  const C* table = g.piece(feature, 0);
  for (int64_t b = 0; b < n; b++) {
    const C* piece = table + int64_t(s.piece[b]) * g.size;
    const C u = (s.clamped[b] - piece[0]) * piece[1];
    // Horner's rule for the value and the derivative; 0 * u keeps NaN where no power of u is left.
    Rows value = load<Rows>(piece + 4 + K * width), slope = K > 1 ? value : splat<Rows>(C(0) * u);
    if (K == 0) value += C(0) * u;
#pragma GCC unroll 6
    for (int q = K - 1; q >= 0; q--) {
      if (Slope && (K < 2 || q < K - 1)) slope = slope * u + value;
      value = value * u + load<Rows>(piece + 4 + q * width);
    }
    if (g.poison_infinite) value += s.poison[b];
    if (v) value *= v[b];
    store(plan.value + b * width, value);
    if (Slope) store(plan.slope + b * width, slope * piece[1]);
  }
}

template <class C>
using MakePlan = void (*)(const Basis<C>&, int64_t, const C*, const C*, int64_t, PlanScratch<C>&, Plan<C>&);

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
