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

// Workspace of make_plan for a tile of n samples: their pieces and cells, and without look-up x in the order of places.
template <class C>
struct PlanScratch {
  C *x, *clamped;
  int32_t *piece, *cell, *sorted, *next;  // sorted: the cells of the places; next: one per cell

  template <class Arena>
  PlanScratch(Arena& arena, int64_t n, int cells)
      : x(arena.template take<C>(round_up(n, kLanes<C>))),
        clamped(arena.template take<C>(round_up(n, kLanes<C>))),
        piece(arena.template take<int32_t>(n)),
        cell(arena.template take<int32_t>(round_up(n, 16))),
        sorted(arena.template take<int32_t>(n + 16)),
        next(arena.template take<int32_t>(cells + 1)) {}
};

// The rows of the samples of each cell, in their order.
inline void sort_by_cell(const int32_t* cell, int64_t n, int cells, int32_t* next, int32_t* start, int32_t* row) {
  for (int c = 0; c <= cells; c++) next[c] = 0;
  for (int64_t b = 0; b < n; b++) next[cell[b]]++;
  int32_t total = 0;
  for (int c = 0; c < cells; c++) {
    start[c] = total;
    total += next[c];
    next[c] = start[c];
  }
  start[cells] = total;
  for (int64_t b = 0; b < n; b++) row[next[cell[b]]++] = b * KAN_VECTOR_BYTES;
}

// The inputs of one feature: n of them, padded to whole vectors; v: their factors, or null.
template <class C>
struct Samples {
  const C *x, *v;
  int64_t n;
};

// The weights of the base row at the places from q on, where the inputs are x. silu alone needs neither 1 - s nor the
// derivatives of the sigmoid.
template <class C>
inline void make_base(const Basis<C>& basis, Vec<C> x, int64_t q, Plan<C>& plan) {
  if (basis.base.kind == Base::silu && basis.base.order == 0 && !plan.slope) {
    return store(plan.base + q, x / (C(1) + exp<C>(-x)));
  }
  const Sigmoid<C> sigmoid(basis.base.kind == Base::silu ? x : Vec<C>{});
  store(plan.base + q, basis.base(x, sigmoid));
  if (plan.slope) store(plan.base_slope + q, basis.base_slope(x, sigmoid));
}

// The same for all n places, whose inputs lie side by side.
template <class C>
void make_bases(const Basis<C>& basis, const C* x, int64_t n, Plan<C>& plan) {
  for (int64_t q = 0; q < n && basis.has_base; q += kLanes<C>) make_base(basis, load<Vec<C>>(x + q), q, plan);
}

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
    const auto next = coefficient(q);  // first: g++ 12 forms no multiply-add around a call
    value = value * u + next;
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
  Place operator()(V x) const { return (*this)(x, piece(x)); }
  Place operator()(V x, I piece) const {
    const V scale = lookup<Two>(inverses, piece);
    return {piece, (range.clamp(x) - lookup<Two>(origins, piece)) * scale, scale};
  }
};

// Whether there are samples outside of the range, and in the spans that "zero" adds on either side of it.
struct Spread {
  bool outside, beside;
};

// Cells with all bounds in registers, a vector of samples at a time.
template <bool Two, class C>
Spread locate_by_lookup(const Pieces<C>& g, int64_t feature, Samples<C> s, int32_t* cell) {
  using I = IntVec<C>;
  const Locator<C, Two> locator(g, feature);
  const int cells = g.grid_size;
  I some = {};
  for (int64_t b = 0; b < s.n; b += kLanes<C>) {
    const I piece = locator.piece(load<Vec<C>>(s.x + b)), bit = 1 << piece;
    some |= s.n - b < kLanes<C> ? first_of(bit, s.n - b) : bit;
    I c = piece - g.shift;
    c = c < 0 ? I{} : c;
    c = c >= cells ? I{} + (cells - 1) : c;
    store(cell + b, convert<typename Vector<int32_t, kLanes<C>>::Type>(c));
  }
  // Outside: all pieces but the cells. Beside: those but the first and the last piece.
  const uint32_t outside = ~(((1u << cells) - 1) << g.shift), ends = 1u | 1u << (g.count - 1);
  return {any_of(some, outside), any_of(some, outside & ~ends)};
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

// Spread::beside of these pieces.
template <class C>
bool any_beside(const Pieces<C>& g, const int32_t* piece, int64_t n) {
  const int32_t first = g.shift, last = g.shift + g.grid_size - 1, end = g.count - 1;
  int32_t any = 0;
  for (int64_t b = 0; b < n && g.extended; b++) {
    const int32_t p = piece[b];
    any |= int32_t((p > 0) & (p < first)) | int32_t((p > last) & (p < end));
  }
  return any != 0;
}

// The weights of the samples in the order of places, with all pieces in registers. cell: the cells of the places, whose
// pieces they are unless there are samples outside of the range; null makes it look for the pieces once more. The base
// function, which waits for divisions, takes less time between look-ups than by itself.
template <bool Two, class C, int K, bool Slope>
void evaluate_by_lookup(const Basis<C>& basis, int64_t feature, Samples<C> s, const int32_t* cell, Plan<C>& plan) {
  using V = Vec<C>;
  constexpr int lanes = kLanes<C>, width = K < 4 ? 4 : 8;
  using Cells = typename Vector<int32_t, lanes>::Type;
  const C* columns = basis.pieces.columns_of(feature);
  const Locator<C, Two> locator(basis.pieces, feature);
  const V more = splat<V>(C(plan.differences));
  C *values = plan.value, *slopes = plan.slope;
  for (int64_t q = 0; q < s.n; q += lanes, values += width * lanes, slopes += width * lanes) {
    const V x = gather(s.x, plan.row + q, s.n - q);
    const auto [piece, u, inverse] =
        cell ? locator(x, convert<IntVec<C>>(load<Cells>(cell + q)) + basis.pieces.shift) : locator(x);
    V value[width] = {}, slope[width] = {};
#pragma GCC unroll 6
    for (int row = 0; row <= K; row++) {
      evaluate<K, Slope>(u, value[row], slope[row], [&, piece = piece](int power) {
        return lookup<Two>(columns + (4 + power * width + row) * 2 * lanes, piece);
      });
    }
    if (basis.has_base) make_base(basis, x, q, plan);
    transpose(value);
#pragma GCC unroll 8
    for (int j = 0; j < width; j++) store(values + j * lanes, value[j]);
    if (!Slope) continue;
    slope[K] *= inverse;
    if (K > 0) slope[0] *= inverse;
#pragma GCC unroll 4
    for (int row = K - 1; row > 0; row--) slope[row] = slope[row] * inverse + slope[row + 1] * more;
    transpose(slope);
#pragma GCC unroll 8
    for (int j = 0; j < width; j++) store(slopes + j * lanes, slope[j]);
  }
}

// t_j = s_j + s_(j+1) + ... but for t_0; see make_plan.
template <int K, class Rows>
inline void add_following(Rows& slope) {
#pragma GCC unroll 6
  for (int row = K - 1; row > 0; row--) slope[row] += slope[row + 1];
}

// The same place by place; row says which sample's piece it is.
template <class C, int K, bool Slope>
void evaluate_by_sample(const Pieces<C>& g, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  constexpr int width = K < 4 ? 4 : 8;
  using Rows = typename Vector<C, width>::Type;
  const C* table = g.piece(feature, 0);
  const Range<C> range(g, g.bounds_of(feature));
  for (int64_t q = 0; q < s.n; q++) scratch.x[q] = s.x[uint32_t(plan.row[q]) / KAN_VECTOR_BYTES];
  for (int64_t q = s.n; q % kLanes<C> != 0; q++) scratch.x[q] = 0;
  for (int64_t q = 0; q < s.n; q += kLanes<C>) store(scratch.clamped + q, range.clamp(load<Vec<C>>(scratch.x + q)));
  for (int64_t q = 0; q < s.n; q++) {
    const C* p = table + int64_t(scratch.piece[uint32_t(plan.row[q]) / KAN_VECTOR_BYTES]) * g.size;
    const C u = (scratch.clamped[q] - p[0]) * p[1];
    Rows value, slope;
    evaluate<K, Slope>(u, value, slope, [&](int power) { return load<Rows>(p + 4 + power * width); });
    store(plan.value + q * width, value);
    if (!Slope) continue;
    slope *= p[1];
    if (plan.differences) add_following<K>(slope);
    store(plan.slope + q * width, slope);
  }
}

// What few calls ask of the values: NaN where infinite inputs give it, factors v, and weights of differences where the
// values are themselves slopes.
template <class C, int K>
void finish_values(const Basis<C>& basis, Samples<C> s, bool differences, Plan<C>& plan) {
  constexpr int width = K < 4 ? 4 : 8;
  using Rows = typename Vector<C, width>::Type;
  for (int64_t q = 0; q < s.n; q++) {
    const int64_t b = plan.row[q] / KAN_VECTOR_BYTES;
    if (basis.has_spline) {
      Rows value = load<Rows>(plan.value + q * width);
      if (basis.pieces.poison_infinite) value += s.x[b] - s.x[b];
      if (s.v) value *= s.v[b];
      if (differences) add_following<K>(value);
      store(plan.value + q * width, value);
    }
    if (s.v && basis.has_base) plan.base[q] *= s.v[b];
  }
}

template <class C>
void sort_samples(int cells, int64_t n, PlanScratch<C>& scratch, Plan<C>& plan) {
  constexpr int few = 32, lanes = 16;
  if (kLookup && cells <= few) {
    for (int64_t b = n; b % lanes != 0; b++) scratch.cell[b] = -1;
    sort_by_few_cells(scratch.cell, n, cells, plan.start, plan.row, scratch.sorted);
  } else {
    sort_by_cell(scratch.cell, n, cells, scratch.next, plan.start, plan.row);
  }
}

// Places, and the weights of all rows.
template <class C, int K, bool Slope>
void make_spline(const Basis<C>& basis, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  const Pieces<C>& g = basis.pieces;
  const bool search = !kLookup || !g.columns, two = g.count > kLanes<C>;
  // sum_j s_j c_j = sum_j>0 t_j (c_j - c_(j-1)), t_j = s_j + s_(j+1) + ..., where the sum of all s_j is 0: one product
  // less. B-splines add up to 1 inside of the range, and their continuations outside of it do so too, so their slopes
  // add up to 0. Only with "zero" they do not in the spans on either side.
  const bool differences = basis.differences && K > 0 && (Slope || g.order > 0);
  if (search) {
    locate_by_search(g, feature, s, scratch.piece, scratch.cell);
    plan.differences = differences && !any_beside(g, scratch.piece, s.n);
    sort_samples(g.grid_size, s.n, scratch, plan);
    evaluate_by_sample<C, K, Slope>(g, feature, s, scratch, plan);
    make_bases(basis, scratch.x, s.n, plan);
    return;
  }
  const Spread spread =
      two ? locate_by_lookup<true>(g, feature, s, scratch.cell) : locate_by_lookup<false>(g, feature, s, scratch.cell);
  plan.differences = differences && !spread.beside;
  sort_samples(g.grid_size, s.n, scratch, plan);
  const int32_t* cell = spread.outside ? nullptr : scratch.sorted;
  if (two) {
    evaluate_by_lookup<true, C, K, Slope>(basis, feature, s, cell, plan);
  } else {
    evaluate_by_lookup<false, C, K, Slope>(basis, feature, s, cell, plan);
  }
}

template <class C, int K, bool Slope>
void make_plan(const Basis<C>& basis, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  if (basis.has_spline) {
    make_spline<C, K, Slope>(basis, feature, s, scratch, plan);
  } else {
    plan.start[0] = 0;
    plan.start[1] = s.n;
    plan.differences = false;
    for (int64_t b = 0; b < s.n; b++) plan.row[b] = b * KAN_VECTOR_BYTES;
    make_bases(basis, s.x, s.n, plan);
  }
  const bool differences = plan.differences && !Slope, poison = basis.has_spline && basis.pieces.poison_infinite;
  if (s.v || differences || poison) finish_values<C, K>(basis, s, differences, plan);
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
