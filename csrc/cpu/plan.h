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
  static constexpr int max_order = 22;  // two more than callers may ask for: slopes of slopes
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

// Cell c holds the places start[c] .. start[c + 1] - 1. At each there is a sample: `row` is its number times the bytes
// of a vector, where it begins in matrices of whole vectors; the weights are `width` padded spline rows, and the base
// row apart.
template <class C>
struct Plan {
  int32_t *start, *row;
  C *value, *base;
  C *slope, *base_slope;  // the derivatives of one order more, where wanted
  bool differences;       // the slopes are weights of the differences between a row and the one before
};

// What all plans of one call have in common.
template <class C>
struct Basis {
  Pieces<C> pieces;
  BaseFunction<C> base, base_slope;
  bool has_spline, has_base;
  bool differences;  // whether slopes may belong to differences of rows

  int cells() const { return has_spline ? pieces.grid_size : 1; }
};

// Workspace of make_plan for a tile of n samples: their pieces, cells and numbers, and x and v in the order of places.
template <class C>
struct PlanScratch {
  C *x, *v, *clamped;
  int32_t *piece, *cell, *id, *next;  // next: one per cell

  template <class Arena>
  PlanScratch(Arena& arena, int64_t n, int cells)
      : x(arena.template take<C>(round_up(n, kLanes<C>))),
        v(arena.template take<C>(round_up(n, kLanes<C>))),
        clamped(arena.template take<C>(round_up(n, kLanes<C>))),
        piece(arena.template take<int32_t>(n)),
        cell(arena.template take<int32_t>(round_up(n, 16))),
        id(arena.template take<int32_t>(n + 16)),
        next(arena.template take<int32_t>(cells + 1)) {}
};

// The samples of each cell, in their order.
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

// sum_j s_j c_j = sum_j>0 t_j (c_j - c_(j-1)), t_j = s_j + s_(j+1) + ..., where the sum of all s_j is 0, as that of the
// slopes of a partition of unity: one product less.
template <int K, class Rows>
inline void add_following(Rows& slope) {
#pragma GCC unroll 6
  for (int row = K - 1; row > 0; row--) slope[row] += slope[row + 1];
}

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

// Where the samples of one feature lie: their pieces, with all bounds in registers, and u there. Two: there are more
// pieces than one vector holds.
template <class C, bool Two = true>
struct Locator {
  using V = Vec<C>;
  using I = IntVec<C>;
  struct Place {
    I piece;
    V u, inverse;
  };
  Range<C> range;
  const C *bounds, *origins, *inverses;

  Locator(const Pieces<C>& g, int64_t feature)
      : range(g, g.bounds_of(feature)),
        bounds(g.bounds_of(feature)),
        origins(g.columns_of(feature)),
        inverses(origins + 2 * kLanes<C>) {}

  // The number of bounds <= x.
  I piece(V x) const {
    I piece = {};
#pragma GCC unroll 5
    for (int half = Two ? kLanes<C> : kLanes<C> / 2; half > 0; half /= 2) {
      piece += (lookup<Two>(bounds, piece + (half - 1)) <= x) & half;
    }
    return piece;
  }
  Place operator()(V x) const {
    const I piece = this->piece(x);
    const V scale = lookup<Two>(inverses, piece);
    return {piece, (range.clamp(x) - lookup<Two>(origins, piece)) * scale, scale};
  }
};

// Cells with all bounds in registers, a vector of samples at a time.
template <bool Two, class C>
void locate_by_lookup(const Pieces<C>& g, int64_t feature, Samples<C> s, int32_t* cell) {
  using I = IntVec<C>;
  const Locator<C, Two> locator(g, feature);
  const int cells = g.grid_size;
  for (int64_t b = 0; b < s.n; b += kLanes<C>) {
    I c = locator.piece(load<Vec<C>>(s.x + b)) - g.shift;
    c = c < 0 ? I{} : c;
    c = c >= cells ? I{} + (cells - 1) : c;
    store(cell + b, convert<typename Vector<int32_t, kLanes<C>>::Type>(c));
  }
}

// The same by binary search, for any number of pieces; all samples side by side.
template <class C>
void locate_by_search(const Pieces<C>& g, int64_t feature, Samples<C> s, int32_t* piece, int32_t* cell) {
  const C* bounds = g.bounds_of(feature);
  for (int64_t b = 0; b < s.n; b++) piece[b] = 0;
  for (int half = g.bound_stride / 2; half > 0; half /= 2) {
    for (int64_t b = 0; b < s.n; b++) piece[b] += bounds[piece[b] + half - 1] <= s.x[b] ? half : 0;
  }
  for (int64_t b = 0; b < s.n; b++) {
    const int32_t c = piece[b] - g.shift;
    cell[b] = c < 0 ? 0 : c >= g.grid_size ? g.grid_size - 1 : c;
  }
}

// The weights of the samples in the order of places, with all pieces in registers.
template <bool Two, class C, int K, bool Slope>
void evaluate_by_lookup(const Pieces<C>& g, int64_t feature, Samples<C> s, Plan<C>& plan) {
  using V = Vec<C>;
  constexpr int lanes = kLanes<C>, width = K < 4 ? 4 : 8;
  const C* columns = g.columns_of(feature);
  const Locator<C, Two> locator(g, feature);
  for (int64_t q = 0; q < s.n; q += lanes) {
    const V x = load<V>(s.x + q);
    const auto [piece, u, inverse] = locator(x);
    const auto column = [&, piece = piece](int j) { return lookup<Two>(columns + j * 2 * lanes, piece); };
    V value[width] = {}, slope[width] = {};
#pragma GCC unroll 6
    for (int row = 0; row <= K; row++) {
      evaluate<K, Slope>(u, value[row], slope[row], [&](int power) { return column(4 + power * width + row); });
      if (g.poison_infinite) value[row] += x - x;
      if (s.v) value[row] *= load<V>(s.v + q);
      slope[row] *= inverse;
    }
    if (plan.differences) add_following<K>(Slope ? slope : value);
    transpose(value);
#pragma GCC unroll 8
    for (int j = 0; j < width; j++) store(plan.value + q * width + j * lanes, value[j]);
    if (Slope) {
      transpose(slope);
#pragma GCC unroll 8
      for (int j = 0; j < width; j++) store(plan.slope + q * width + j * lanes, slope[j]);
    }
  }
}

// The same place by place; id says which sample's piece it is.
template <class C, int K, bool Slope>
void evaluate_by_sample(const Pieces<C>& g, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  constexpr int width = K < 4 ? 4 : 8;
  using Rows = typename Vector<C, width>::Type;
  const C* table = g.piece(feature, 0);
  const Range<C> range(g, g.bounds_of(feature));
  for (int64_t q = 0; q < s.n; q += kLanes<C>) store(scratch.clamped + q, range.clamp(load<Vec<C>>(s.x + q)));
  for (int64_t q = 0; q < s.n; q++) {
    const C* p = table + int64_t(scratch.piece[scratch.id[q]]) * g.size;
    const C u = (scratch.clamped[q] - p[0]) * p[1];
    Rows value, slope;
    evaluate<K, Slope>(u, value, slope, [&](int power) { return load<Rows>(p + 4 + power * width); });
    if (g.poison_infinite) value += s.x[q] - s.x[q];
    if (s.v) value *= s.v[q];
    slope *= p[1];
    if (plan.differences) add_following<K>(Slope ? slope : value);
    store(plan.value + q * width, value);
    if (Slope) store(plan.slope + q * width, slope);
  }
}

// B-splines add up to 1 inside of the range, and their continuations outside of it do so too. Only with "zero" they add
// up to less in the spans on either side, and to 0 beyond them.
template <class C>
bool add_up(const Pieces<C>& g, int64_t feature, Samples<C> s) {
  if (!g.extended) return true;
  const C *bounds = g.bounds_of(feature), first = bounds[0], last = bounds[g.bounds - 1];
  const C low = bounds[g.degree], high = bounds[g.degree + g.grid_size];
  IntVec<C> lane, some = {};
  for (int j = 0; j < kLanes<C>; j++) lane[j] = j;
  for (int64_t b = 0; b < s.n; b += kLanes<C>) {
    const Vec<C> x = load<Vec<C>>(s.x + b);
    const IntVec<C> fading = ((x >= first) & (x < low)) | ((x >= high) & (x < last));
    some |= fading & (lane < typename Bits<C>::Int(s.n - b));
  }
  for (int j = 0; j < kLanes<C>; j++) {
    if (some[j]) return false;
  }
  return true;
}

// Sorts the samples by cell, so that their places have x and v in this order. Lanes beyond the last one are 0.
template <class C>
Samples<C> sort_samples(int cells, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  constexpr int few = 32, lanes = 16;
  if (kLookup && cells <= few) {
    for (int64_t b = s.n; b % lanes != 0; b++) scratch.cell[b] = -1;
    sort_by_few_cells(scratch.cell, s.n, cells, plan.start, scratch.id);
  } else {
    sort_by_cell(scratch.cell, s.n, cells, scratch.next, plan.start, scratch.id);
  }
  for (int64_t q = 0; q < s.n; q++) plan.row[q] = scratch.id[q] * KAN_VECTOR_BYTES;
  gather(s.x, scratch.id, s.n, scratch.x);
  if (s.v) gather(s.v, scratch.id, s.n, scratch.v);
  return {scratch.x, s.v ? scratch.v : nullptr, s.n};
}

template <class C, int K, bool Slope>
void make_plan(const Basis<C>& basis, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  const Pieces<C>& pieces = basis.pieces;
  if (basis.has_spline) {
    plan.differences = basis.differences && K > 0 && (Slope || pieces.order > 0) && add_up(pieces, feature, s);
    if (!kLookup || !pieces.columns) {
      locate_by_search(pieces, feature, s, scratch.piece, scratch.cell);
      s = sort_samples(basis.cells(), s, scratch, plan);
      evaluate_by_sample<C, K, Slope>(pieces, feature, s, scratch, plan);
    } else if (pieces.count > kLanes<C>) {
      locate_by_lookup<true>(pieces, feature, s, scratch.cell);
      s = sort_samples(basis.cells(), s, scratch, plan);
      evaluate_by_lookup<true, C, K, Slope>(pieces, feature, s, plan);
    } else {
      locate_by_lookup<false>(pieces, feature, s, scratch.cell);
      s = sort_samples(basis.cells(), s, scratch, plan);
      evaluate_by_lookup<false, C, K, Slope>(pieces, feature, s, plan);
    }
  } else {
    plan.start[0] = 0;
    plan.start[1] = s.n;
    plan.differences = false;
    for (int64_t b = 0; b < s.n; b++) plan.row[b] = b * KAN_VECTOR_BYTES;
  }
  if (basis.has_base) make_base(basis, s.x, s.v, s.n, plan);
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
