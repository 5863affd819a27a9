// The plan of one feature and one tile of samples: the samples sorted by cell, and the values of their basis rows.
#pragma once

#include "cpu/basis/pieces.h"
#include "cpu/tuning.h"

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
  static constexpr int max_order = 22;  // MAX_ORDER of ops/native.py, one more for grad_x, and one for its slopes
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

// The samples in the order of their cells. Cell c has the places start[c] .. start[c + 1] - 1. The first `below` places
// of the first cell hold samples below the range, the last `above` places of the last cell samples above it. `offset`
// is the number of the sample at a place times the bytes of a vector: where its row is in matrices of one vector per
// row. A place has the weights of `width` spline rows, some of them padding, and that of the base row apart.
template <class C>
struct Plan {
  int32_t *start, *offset;
  C *value, *base;
  C *slope, *base_slope;  // the weights of derivatives of one order more, where wanted: see Slopes
  int below, above;
};

// The rows that all plans of one call evaluate.
template <class C>
struct Basis {
  Pieces<C> pieces;
  BaseFunction<C> base, base_slope;
  bool has_spline, has_base;

  int cells() const { return has_spline ? pieces.grid_size : 1; }
};

// Workspace of make_plan for a tile of n samples: their pieces and their keys. A key is 0 below the range, 1 + c in
// cell c, and 1 + cells above. x and clamped are the inputs in the order of places, if pieces are not looked up.
template <class C>
struct PlanScratch {
  C *x, *clamped;
  int32_t *piece, *key, *sorted, *next, *start;  // sorted: the keys of the places; next, start: one per key

  template <class Arena>
  PlanScratch(Arena& arena, int64_t n, int cells)
      : x(arena.template take<C>(round_up(n, kLanes<C>))),
        clamped(arena.template take<C>(round_up(n, kLanes<C>))),
        piece(arena.template take<int32_t>(n)),
        key(arena.template take<int32_t>(round_up(n, 16))),
        sorted(arena.template take<int32_t>(n + 16)),
        next(arena.template take<int32_t>(cells + 2)),
        start(arena.template take<int32_t>(cells + 3)) {}
};

// Sorts the samples by key, equal keys in their order: `start` gets the first place of each key, `offset` Plan::offset.
inline void sort_by_key(const int32_t* key, int64_t n, int keys, int32_t* next, int32_t* start, int32_t* offset) {
  for (int k = 0; k < keys; k++) next[k] = 0;
  for (int64_t b = 0; b < n; b++) next[key[b]]++;
  int32_t total = 0;
  for (int k = 0; k < keys; k++) {
    start[k] = total;
    total += next[k];
    next[k] = start[k];
  }
  start[keys] = total;
  for (int64_t b = 0; b < n; b++) offset[next[key[b]]++] = b * KAN_VECTOR_BYTES;
}

// The inputs of one feature: n of them, padded to whole vectors; v: their factors, or null.
template <class C>
struct Samples {
  const C *x, *v;
  int64_t n;
};

// The weights of the base row at the places from q on, whose inputs are x. The value of silu without a derivative needs
// neither 1 - s nor the derivatives of the sigmoid.
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

// Clamps inputs to the range in which u is finite and its polynomials count: all finite numbers where the splines
// continue linearly, else the outermost bounds.
template <class C>
struct Range {
  C low, high;

  Range(const Pieces<C>& g, const C* bounds) {
    const C far = sizeof(C) == 4 ? C(__FLT_MAX__) : C(__DBL_MAX__);
    low = g.poison_infinite ? -far : bounds[0];
    high = g.poison_infinite ? far : bounds[g.bounds - 1];
  }
  Vec<C> clamp(Vec<C> x) const {
    x = x < low ? splat<Vec<C>>(low) : x;
    return x > high ? splat<Vec<C>>(high) : x;
  }
};

// Horner's rule; coefficient(q) is that of u^q. A constant adds u * 0, so that it is NaN where u is.
template <class V, int Degree, class U, class Coefficient>
inline V polynomial(U u, Coefficient coefficient) {
  if constexpr (Degree < 0) {
    return V{} + u * 0;
  } else {
    V value = coefficient(Degree);
    if (Degree == 0) value += u * 0;
#pragma GCC unroll 6
    for (int q = Degree - 1; q >= 0; q--) {
      const V next = coefficient(q);  // apart, because g++ 12 forms no multiply-add around a call
      value = value * u + next;
    }
    return value;
  }
}

// Finds the piece of a sample and u in it, with all bounds of one feature in registers. Two: there are more pieces than
// one vector holds.
template <class C, bool Two = true>
struct Locator {
  using V = Vec<C>;
  using I = IntVec<C>;
  struct Place {
    I piece;
    V u;
  };
  Range<C> range;
  const C *bounds, *origins, *inverses;

  Locator(const Pieces<C>& g, int64_t feature)
      : range(g, g.bounds_of(feature)),
        bounds(g.bounds_of(feature)),
        origins(g.origins_of(feature)),
        inverses(g.inverse_widths_of(feature)) {}

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
    return {piece, (range.clamp(x) - lookup<Two>(origins, piece)) * lookup<Two>(inverses, piece)};
  }
};

// Finds the keys of all samples with the bounds in registers, a vector of samples at a time. Returns whether some
// samples are outside of the range.
template <bool Two, class C>
bool locate_by_lookup(const Pieces<C>& g, int64_t feature, Samples<C> s, int32_t* key) {
  using I = IntVec<C>;
  const Locator<C, Two> locator(g, feature);
  const int cells = g.grid_size;
  I some = {};
  for (int64_t b = 0; b < s.n; b += kLanes<C>) {
    const I piece = locator.piece(load<Vec<C>>(s.x + b)), bit = 1 << piece;
    some |= s.n - b < kLanes<C> ? first_of(bit, s.n - b) : bit;
    I k = piece - (g.shift - 1);
    k = k < 0 ? I{} : k;
    k = k > cells ? I{} + (cells + 1) : k;
    store(key + b, convert<typename Vector<int32_t, kLanes<C>>::Type>(k));
  }
  return any_of(some, ~(((1u << cells) - 1) << g.shift));
}

// Finds pieces and keys by binary search, for any number of pieces. Each step is one loop over all samples.
template <class C>
void locate_by_search(const Pieces<C>& g, int64_t feature, Samples<C> s, int32_t* piece, int32_t* key) {
  const C* bounds = g.bounds_of(feature);
  for (int64_t b = 0; b < s.n; b++) piece[b] = 0;
  for (int half = g.bound_stride / 2; half > 0; half /= 2) {
    for (int64_t b = 0; b < s.n; b++) piece[b] += bounds[piece[b] + half - 1] <= s.x[b] ? half : 0;
  }
  for (int64_t b = 0; b < s.n; b++) {
    const int32_t k = piece[b] - (g.shift - 1);
    key[b] = k < 0 ? 0 : k > g.grid_size ? g.grid_size + 1 : k;
  }
}

// The weights of all places, with the pieces in registers. key: the keys of the places, which give the pieces if all
// samples are inside of the range; null: the pieces are looked for once more. The base function is evaluated in the
// same loop, because the look-ups then fill the time in which it waits for its divisions.
template <bool Two, class C, int K, bool Slope>
void evaluate_by_lookup(const Basis<C>& basis, int64_t feature, Samples<C> s, const int32_t* key, Plan<C>& plan) {
  using V = Vec<C>;
  using I = IntVec<C>;
  constexpr int lanes = kLanes<C>, width = K < 4 ? 4 : 8;
  using Keys = typename Vector<int32_t, lanes>::Type;
  const Pieces<C>& g = basis.pieces;
  const C* columns = g.coefficients_of(feature);
  const Locator<C, Two> locator(g, feature);
  C *values = plan.value, *slopes = plan.slope;
  const bool slope_0 = !key || g.slopes == Slopes::rows;  // else all samples are in the range, where w_0 is not used
  for (int64_t q = 0; q < s.n; q += lanes, values += width * lanes, slopes += width * lanes) {
    const V x = gather(s.x, plan.offset + q, s.n - q);
    const auto [piece, u] = key ? locator(x, convert<I>(load<Keys>(key + q)) + (g.shift - 1)) : locator(x);
    const auto rows = [&, piece = piece, u = u](auto degree, const C* first, bool row_0, V(&row)[width]) {
#pragma GCC unroll 6
      for (int j = 0; j <= K; j++) {
        if (j == 0 && !row_0) continue;
        row[j] = polynomial<V, degree>(
            u, [&](int power) { return lookup<Two>(first + (power * width + j) * 2 * lanes, piece); });
      }
    };
    V value[width] = {}, slope[width] = {};
    rows(std::integral_constant<int, K>{}, columns, true, value);
    if (basis.has_base) make_base(basis, x, q, plan);
    transpose(value);
#pragma GCC unroll 8
    for (int j = 0; j < width; j++) store(values + j * lanes, value[j]);
    if (!Slope) continue;
    rows(std::integral_constant<int, K - 1>{}, columns + (K + 1) * width * 2 * lanes, slope_0, slope);
    transpose(slope);
#pragma GCC unroll 8
    for (int j = 0; j < width; j++) store(slopes + j * lanes, slope[j]);
  }
}

// The weights of all places one by one, by the pieces that locate_by_search has found.
template <class C, int K, bool Slope>
void evaluate_by_sample(const Pieces<C>& g, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  constexpr int width = K < 4 ? 4 : 8;
  using Rows = typename Vector<C, width>::Type;
  const C* table = g.piece(feature, 0).number;
  const Range<C> range(g, g.bounds_of(feature));
  for (int64_t q = 0; q < s.n; q++) scratch.x[q] = s.x[uint32_t(plan.offset[q]) / KAN_VECTOR_BYTES];
  for (int64_t q = s.n; q % kLanes<C> != 0; q++) scratch.x[q] = 0;
  for (int64_t q = 0; q < s.n; q += kLanes<C>) store(scratch.clamped + q, range.clamp(load<Vec<C>>(scratch.x + q)));
  for (int64_t q = 0; q < s.n; q++) {
    const int64_t number = scratch.piece[uint32_t(plan.offset[q]) / KAN_VECTOR_BYTES];
    const Piece<const C> piece{table + number * g.size, K, width};
    const C u = (scratch.clamped[q] - piece.origin()) * piece.inverse_width();
    const auto rows = [&](auto degree, const C* first) {
      return polynomial<Rows, degree>(u, [&](int power) { return load<Rows>(first + power * width); });
    };
    store(plan.value + q * width, rows(std::integral_constant<int, K>{}, piece.rows(0)));
    if (Slope) store(plan.slope + q * width, rows(std::integral_constant<int, K - 1>{}, piece.slopes(0)));
  }
}

// Makes values NaN where infinite inputs ask for it, and multiplies them by v. Few calls need either.
template <class C, int K>
void finish_values(const Basis<C>& basis, Samples<C> s, Plan<C>& plan) {
  constexpr int width = K < 4 ? 4 : 8;
  using Rows = typename Vector<C, width>::Type;
  for (int64_t q = 0; q < s.n; q++) {
    const int64_t b = plan.offset[q] / KAN_VECTOR_BYTES;
    if (basis.has_spline) {
      Rows value = load<Rows>(plan.value + q * width);
      if (basis.pieces.poison_infinite) value += s.x[b] - s.x[b];
      if (s.v) value *= s.v[b];
      store(plan.value + q * width, value);
    }
    if (s.v && basis.has_base) plan.base[q] *= s.v[b];
  }
}

// Sorts the samples by key. outside: whether there may be any outside of the range.
template <class C>
void sort_samples(int cells, int64_t n, bool outside, PlanScratch<C>& scratch, Plan<C>& plan) {
  constexpr int lanes = 16;
  int32_t *key = scratch.key, *start = scratch.start;
  plan.below = plan.above = 0;
  bool sorted = false;
  if constexpr (kLookup) {
    if (cells <= tuning::kFewCells) {
      for (int64_t b = n; b % lanes != 0; b++) key[b] = -1;
      if (!outside) return sort_by_few_keys(key, n, 1, cells, plan.start, plan.offset, scratch.sorted);
      sort_by_few_keys(key, n, 0, cells + 1, start, plan.offset, scratch.sorted);
      sorted = true;
    }
  }
  if (!sorted) sort_by_key(key, n, cells + 2, scratch.next, start, plan.offset);
  plan.below = start[1];
  plan.above = n - start[cells + 1];
  for (int c = 1; c < cells; c++) plan.start[c] = start[c + 1];
  plan.start[0] = 0;
  plan.start[cells] = n;
}

// The places, and the weights of all rows, with the pieces in registers. Two: see Locator.
template <bool Two, class C, int K, bool Slope>
void make_spline_by_lookup(const Basis<C>& basis, int64_t feature, Samples<C> s, PlanScratch<C>& scratch,
                           Plan<C>& plan) {
  const bool outside = locate_by_lookup<Two>(basis.pieces, feature, s, scratch.key);
  sort_samples(basis.pieces.grid_size, s.n, outside, scratch, plan);
  evaluate_by_lookup<Two, C, K, Slope>(basis, feature, s, outside ? nullptr : scratch.sorted, plan);
}

// The places, and the weights of all rows.
template <class C, int K, bool Slope>
void make_spline(const Basis<C>& basis, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  const Pieces<C>& g = basis.pieces;
  if constexpr (kLookup) {
    if (g.columns && g.count > kLanes<C>) {
      return make_spline_by_lookup<true, C, K, Slope>(basis, feature, s, scratch, plan);
    }
    if (g.columns) return make_spline_by_lookup<false, C, K, Slope>(basis, feature, s, scratch, plan);
  }
  locate_by_search(g, feature, s, scratch.piece, scratch.key);
  sort_samples(g.grid_size, s.n, true, scratch, plan);
  evaluate_by_sample<C, K, Slope>(g, feature, s, scratch, plan);
  make_bases(basis, scratch.x, s.n, plan);
}

template <class C, int K, bool Slope>
void make_plan(const Basis<C>& basis, int64_t feature, Samples<C> s, PlanScratch<C>& scratch, Plan<C>& plan) {
  if (basis.has_spline) {
    make_spline<C, K, Slope>(basis, feature, s, scratch, plan);
  } else {
    plan.start[0] = 0;
    plan.start[1] = s.n;
    plan.below = plan.above = 0;
    for (int64_t b = 0; b < s.n; b++) plan.offset[b] = b * KAN_VECTOR_BYTES;
    make_bases(basis, s.x, s.n, plan);
  }
  if (s.v || (basis.has_spline && basis.pieces.poison_infinite)) finish_values<C, K>(basis, s, plan);
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
