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

// Of `samples` samples, those in cell c have the places start[c] .. start[c + 1] - 1 of id and of the weights. A
// sample's weights are its `width` padded spline rows and then the base row.
template <class C>
struct Plan {
  int32_t *start, *id;
  C *value, *slope;  // slope: the derivative of one order more
};

// What all plans of one call have in common.
template <class C>
struct Basis {
  Pieces<C> pieces;
  BaseFunction<C> base, base_slope;
  bool has_spline, has_base;

  int cells() const { return has_spline ? pieces.grid_size : 1; }
  int stride() const { return pieces.width + 1; }
};

// Workspace of make_plan for a tile of n samples.
template <class C>
struct PlanScratch {
  C *clamped, *poison, *base, *base_slope;
  typename Bits<C>::Int* piece;
  int32_t* next;  // one per cell

  template <class Arena>
  PlanScratch(Arena& arena, int64_t n, int cells) {
    n = round_up(n, kLanes<C>);
    for (C** p : {&clamped, &poison, &base, &base_slope}) *p = arena.template take<C>(n);
    piece = arena.template take<typename Bits<C>::Int>(n);
    next = arena.template take<int32_t>(cells);
  }
};

template <class C>
inline typename Bits<C>::Int count_up_to(const C* bounds, int n, C x) {
  int low = 0;
  while (n > 0) {
    const int half = n / 2;
    if (bounds[low + half] <= x) {
      low += half + 1;
      n -= half + 1;
    } else {
      n = half;
    }
  }
  return low;
}

// x: the n inputs of the feature, padded to whole vectors. v: their factors, or null.
template <class C, int K, bool Slope>
void make_plan(const Basis<C>& basis, int64_t feature, const C* x, const C* v, int64_t n, PlanScratch<C>& s,
               Plan<C>& plan) {
  using V = Vec<C>;
  using I = IntVec<C>;
  const Pieces<C>& g = basis.pieces;
  constexpr int count_linearly = 24;
  const C* bounds = nullptr;
  // Infinite inputs are brought to where u is finite; only a linear continuation goes on to there.
  C high = sizeof(C) == 4 ? C(1e34) : C(1e300), low = -high;
  if (basis.has_spline) {
    bounds = g.bounds_of(feature);
    if (!g.poison_infinite) {
      low = bounds[0];
      high = bounds[g.bounds - 1];
    }
  }

  for (int64_t b = 0; b < n; b += kLanes<C>) {
    const V xs = load<V>(x + b);
    if (basis.has_spline) {
      V clamped = xs < low ? splat<V>(low) : xs;
      clamped = clamped > high ? splat<V>(high) : clamped;
      store(s.clamped + b, clamped);
      if (g.poison_infinite) store(s.poison + b, xs - xs);
      if (g.bounds <= count_linearly) {
        I piece = {};
        for (int j = 0; j < g.bounds; j++) piece -= xs >= bounds[j];
        store(s.piece + b, piece);
      }
    }
    if (basis.has_base) {
      const V sig = basis.base.kind == Base::silu ? sigmoid<C>(xs) : xs;
      V value = basis.base(xs, sig), slope = Slope ? basis.base_slope(xs, sig) : value;
      if (v) value *= load<V>(v + b);
      store(s.base + b, value);
      if (Slope) store(s.base_slope + b, slope);
    }
  }

  const int stride = basis.stride(), cells = basis.cells();
  if (!basis.has_spline) {
    plan.start[0] = 0;
    plan.start[1] = n;
    for (int64_t b = 0; b < n; b++) {
      plan.id[b] = b;
      plan.value[b * stride + g.width] = s.base[b];
      if (Slope) plan.slope[b * stride + g.width] = s.base_slope[b];
    }
    return;
  }
  if (g.bounds > count_linearly) {
    for (int64_t b = 0; b < n; b++) s.piece[b] = count_up_to(bounds, g.bounds, x[b]);
  }

  const auto cell = [&](int p) {
    const int c = p - g.shift;
    return c < 0 ? 0 : c >= cells ? cells - 1 : c;
  };
  for (int c = 0; c < cells; c++) s.next[c] = 0;
  for (int64_t b = 0; b < n; b++) s.next[cell(s.piece[b])]++;
  int32_t total = 0;
  for (int c = 0; c < cells; c++) {
    plan.start[c] = total;
    total += s.next[c];
    s.next[c] = plan.start[c];
  }
  plan.start[cells] = total;

  constexpr int width = K < 4 ? 4 : 8;
  using Rows = typename Vector<C, width>::Type;
  for (int64_t b = 0; b < n; b++) {
    const int p = s.piece[b];
    const C* piece = g.piece(feature, p);
    const C u = (s.clamped[b] - piece[0]) * piece[1];
    // Horner's rule for the value and the derivative; 0 * u keeps NaN where no power of u is left.
    Rows value = load<Rows>(piece + 4 + K * width), slope = splat<Rows>(C(0) * u);
    if (K == 0) value += C(0) * u;
#pragma GCC unroll 6
    for (int q = K - 1; q >= 0; q--) {
      if (Slope) slope = slope * u + value;
      value = value * u + load<Rows>(piece + 4 + q * width);
    }
    if (g.poison_infinite) value += s.poison[b];
    if (v) value *= v[b];
    const int64_t place = s.next[cell(p)]++;
    plan.id[place] = b;
    store(plan.value + place * stride, value);
    if (basis.has_base) plan.value[place * stride + width] = s.base[b];
    if (Slope) {
      store(plan.slope + place * stride, slope * piece[1]);
      if (basis.has_base) plan.slope[place * stride + width] = s.base_slope[b];
    }
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
