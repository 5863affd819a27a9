// The grid as a table of polynomials: within one span every derivative of every extrapolated B-spline is a polynomial
// of degree at most k, so degree, derivative order and extrapolation are settled here once per call.
#pragma once

#include "cpu/simd/avx512.h"
#include "cpu/simd/pack.h"

namespace kan {
namespace {

inline float next_up(float x) { return __builtin_nextafterf(x, __builtin_inff()); }
inline double next_up(double x) { return __builtin_nextafter(x, __builtin_inf()); }

// Slopes, the derivatives of the order m = order + 1 with s_j in row j, are weights of the rows c_j or of differences:
// splines of degree k - 1 have the differences of neighbouring rows at a rate for coefficients,
//     sum_j s_j c_j = sum_j>0 w_j e_j,  e_j = (c_j - c_(j-1)) / reach_j,  w_j = (s_j + ... + s_k) reach_j,
// where reach_j = (t_(r+k) - t_r) / k for r = first_row + j, because the s_j add up to 0 inside of the range. The w_j
// in turn add up to 1 for m = 1 and to 0 for m > 1, so that for any row a
//     sum_j s_j c_j = [m = 1] e_a + sum_j>0 w_j (e_j - e_a),
// two products less than there are rows. Least is lost to rounding where e_a is small, so a has a large reach. Outside
// of the range the s_j add up to some w_0, and the sums begin at its end,
//     sum_j s_j c_j = w_0 c_0 + sum_j>0 w_j e_j = w_0 c_k + sum_j>0 w'_j e_j,  w'_j = -(s_0 + ... + s_(j-1)) reach_j,
// with w'_j = w_j where w_0 = 0.
enum class Slopes { none, rows, differences };

// For one feature the real line is cut at `bounds` into pieces: outside, span, ..., span, outside. A piece is
//   [origin, inverse width, unused, unused, coefficient of u^0: k+1 rows padded to `width`, of u^1, ..., of u^k;
//    and, where slopes are wanted, those of their weights in the same way, of u^0 to u^(k-1)]
// for the rows first_row .. first_row + k at u = (x - origin) * inverse width. Rows that are not active are 0. The
// origin of a span is its middle: with |u| <= 1/2 the powers of u cancel least.
template <class C>
struct Pieces {
  int degree, grid_size, order;
  Slopes slopes;
  Extrapolation extrapolation;
  bool extended;         // extrapolation "zero": the k spans on either side of the range are pieces too
  int bounds, count;     // number of bounds and of pieces, bounds + 1
  int bound_stride;      // bounds per feature, padded by NaN (no x is above it) to a power of 2
  int width, size;       // padded number of rows; numbers per piece
  int shift;             // first_row of piece p is p - shift, clamped to [0, grid_size)
  bool poison_infinite;  // "linear" at order 0: an infinite input gives NaN
  int columns;           // where pieces are looked up in registers: the length of a row of piece_columns, else 0
  C *bound_table, *piece_table, *piece_columns, *rate_table;
  int32_t* order_table;
  int32_t* table;  // of a feature: features with the same knots share one

  int knots() const { return grid_size + 2 * degree + 1; }
  int rows() const { return grid_size + degree; }
  const C* bounds_of(int64_t feature) const { return bound_table + int64_t(table[feature]) * bound_stride; }
  // All pieces of a feature transposed: one row of `columns` for each number of a piece.
  C* columns_of(int64_t feature) const { return piece_columns + int64_t(table[feature]) * columns * size; }
  // 1 / reach of every row but the first.
  C* rates_of(int64_t feature) const { return rate_table + int64_t(table[feature]) * rows(); }
  // The rows 1 .. k of every cell: first one with about the largest reach, then the others.
  int32_t* order_of(int64_t feature) const { return order_table + int64_t(table[feature]) * grid_size * degree; }
  C* piece(int64_t feature, int p) const { return piece_table + (int64_t(table[feature]) * count + p) * size; }
};

template <class C>
Pieces<C> describe_pieces(const Layer& layer, Slopes slopes = Slopes::none) {
  Pieces<C> g;
  g.slopes = layer.degree == 0 && slopes == Slopes::differences ? Slopes::rows : slopes;
  g.degree = layer.degree;
  g.grid_size = layer.grid_size;
  g.order = layer.order;
  g.extrapolation = layer.extrapolation;
  g.extended = layer.extrapolation == Extrapolation::zero;
  g.bounds = layer.grid_size + 1 + (g.extended ? 2 * layer.degree : 0);
  g.count = g.bounds + 1;
  g.bound_stride = kLanes<C>;
  while (g.bound_stride <= g.bounds) g.bound_stride *= 2;
  g.columns = kLookup && g.count <= 2 * kLanes<C> ? 2 * kLanes<C> : 0;
  if (g.columns) g.bound_stride = g.columns;
  g.width = layer.degree < 4 ? 4 : 8;
  g.size = 4 + (layer.degree + 1 + (slopes == Slopes::none ? 0 : layer.degree)) * g.width;
  g.shift = 1 + (g.extended ? layer.degree : 0);
  g.poison_infinite = layer.extrapolation == Extrapolation::linear && layer.order == 0;
  return g;
}

// The power of two at or below a positive number.
inline double power_below(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= uint64_t(0x7ff) << 52;
  memcpy(&x, &bits, sizeof bits);
  return x;
}

// Fills the table of `feature` from the knots t. `scratch` holds knots() + 2 * degree + kLanes<double> doubles.
template <class C, int K>
void compile_feature(const Pieces<C>& g, const C* t, int64_t feature, double* scratch) {
  using V = Vec<double>;
  constexpr int lanes = kLanes<double>;
  const int knots = g.knots();

  // Knots beyond the ends belong to B-splines that do not exist; any increasing values will do.
  double* knot = scratch + K;
  for (int j = -K; j < knots + K + lanes; j++) {
    knot[j] = j < 0 ? t[0] + double(j) : j < knots ? double(t[j]) : t[knots - 1] + double(j - knots + 1);
  }

  C* bounds = g.bound_table + int64_t(g.table[feature]) * g.bound_stride;
  const int first_knot = g.extended ? 0 : K;
  for (int j = 0; j < g.bound_stride; j++) bounds[j] = j < g.bounds ? t[first_knot + j] : C(__builtin_nan(""));
  // The end of the range belongs to the last interior span.
  bounds[g.grid_size + K - first_knot] = next_up(t[g.grid_size + K]);

  const auto reach = [&](int row) { return (knot[row + K] - knot[row]) / larger(1, K); };
  constexpr int middle = (K + 1) / 2;
  if (g.slopes == Slopes::differences) {
    C* rates = g.rates_of(feature);
    for (int row = 1; row < g.rows(); row++) rates[row] = C(1 / reach(row));
    int32_t* order = g.order_of(feature);
    for (int cell = 0; cell < g.grid_size; cell++) {
      int first = middle;
      for (int row = 1; row <= K; row++) first = reach(cell + row) > 1.5 * reach(cell + first) ? row : first;
      *order++ = first;
      for (int row = 1; row <= K; row++) {
        if (row != first) *order++ = row;
      }
    }
  }
  // The weights of slopes from slope[q][j], the coefficients of u^q in s_j / scale: w'_j for j <= before, then w_j.
  const auto put_slopes = [&](C* piece, const double (&slope)[K + 1][K + 1], int first_row, int before, double scale) {
    if (g.slopes == Slopes::none) return;
    const bool rows = g.slopes == Slopes::rows;
    double factor[K + 1] = {scale};
    for (int row = 1; row <= K; row++) factor[row] = rows ? scale : reach(first_row + row) * scale;
    C* weight = piece + (K + 1) * g.width;
    for (int q = 0; q + g.order < K; q++, weight += g.width) {
      for (int row = 0; row <= K && rows; row++) weight[row] = C(slope[q][row] * factor[row]);
      if (rows) continue;
      double low = 0, high = 0;
      for (int row = 0; row <= K; row++) low -= slope[q][row];
      for (int row = K; row > 0; row--) {
        high += slope[q][row];
        low += slope[q][row];
        weight[row] = C((row <= before ? low : high) * factor[row]);
      }
      weight[0] = C((high + slope[q][0]) * factor[0]);
    }
  };

  const auto clear = [&](int p, double origin, double inverse) {
    C* piece = g.piece(feature, p);
    for (int j = 0; j < g.size; j++) piece[j] = 0;
    piece[0] = C(origin);
    piece[1] = C(inverse);
    return piece + 4;
  };
  C* below = clear(0, knot[K], 0);
  C* above = clear(g.count - 1, knot[g.grid_size + K], 0);

  const int last_span = first_knot + g.count - 2;
  for (int m0 = first_knot; m0 < last_span; m0 += lanes) {
    // In the lanes: the spans [t_m, t_m+1), m = m0, m0 + 1, ..., with T[K] = t_m. The origin is rounded first, so that
    // u in the computing type belongs to these very polynomials.
    V T[2 * K + 2], reciprocal[K + 1][K + 2];  // [p][r]: 1 / (t_j+p - t_j), j = m - p + r
#pragma GCC unroll 12
    for (int j = 0; j < 2 * K + 2; j++) T[j] = load<V>(knot + m0 - K + j);
    const V h = T[K + 1] - T[K], inverse = 1.0 / h;
    const V origin = convert<V>(convert<typename Vector<C, lanes>::Type>((T[K] + T[K + 1]) * 0.5));

    // Cox-de Boor at the origin: the p + 1 splines of each degree p.
    V spline[K + 1][K + 1];
    spline[0][0] = splat<V>(1.0);
#pragma GCC unroll 5
    for (int p = 1; p <= K; p++) {
#pragma GCC unroll 6
      for (int r = 1; r <= p; r++) reciprocal[p][r] = 1.0 / (T[K + r] - T[K - p + r]);
#pragma GCC unroll 6
      for (int r = 0; r <= p; r++) {
        V sum = {};
        if (r > 0) sum += (origin - T[K - p + r]) * reciprocal[p][r] * spline[p - 1][r - 1];
        if (r < p) sum += (T[K + r + 1] - origin) * reciprocal[p][r + 1] * spline[p - 1][r];
        spline[p][r] = sum;
      }
    }
    // Their q-th derivatives for the degree k: the last q steps are differences, which cancel less than the derivatives
    // of a polynomial in u would. They are derivatives in x / unit: every T_(K+r) - T_(K-p+r) holds the span, so that
    // none is large, while those in x can be beyond the numbers that there are. A power of two as unit rounds nothing.
    V unit = h;
    for (int lane = 0; lane < lanes; lane++) unit[lane] = power_below(h[lane]);
#pragma GCC unroll 5
    for (int p = 1; p <= K; p++) {
#pragma GCC unroll 6
      for (int r = 1; r <= p; r++) reciprocal[p][r] *= unit;
    }
    V derivative[K + 1][K + 1];
#pragma GCC unroll 6
    for (int q = 0; q <= K; q++) {
      V d[K + 1] = {};
#pragma GCC unroll 6
      for (int r = 0; r <= K - q; r++) d[r] = spline[K - q][r];
#pragma GCC unroll 5
      for (int p = K - q + 1; p <= K; p++) {
#pragma GCC unroll 6
        for (int r = p; r >= 0; r--) {
          V sum = {};
          if (r > 0) sum += d[r - 1] * reciprocal[p][r];
          if (r < p) sum -= d[r] * reciprocal[p][r + 1];
          d[r] = sum * double(p);
        }
      }
#pragma GCC unroll 6
      for (int r = 0; r <= K; r++) derivative[q][r] = d[r];
    }

    const int spans = smaller(lanes, last_span - m0);
    for (int lane = 0; lane < spans; lane++) {
      const int m = m0 + lane, span = m - K;
      const int first_row = span < 0 ? 0 : span >= g.grid_size ? g.grid_size - 1 : span;
      C* piece = clear(1 + m - first_knot, origin[lane], inverse[lane]);
      const double per_x = 1 / unit[lane], in_units = h[lane] / unit[lane];
      double power = 1;  // per_x^order, which makes derivatives in x of those in x / unit
      for (int d = 0; d < smaller(g.order, K); d++) power *= per_x;
      double slope[K + 1][K + 1] = {};
      for (int row = 0; row <= K; row++) {
        const int r = first_row + row - span;
        if (r < 0 || r > K) continue;
        double scale = 1;  // (h / unit)^q / q!
        for (int q = 0; q + g.order <= K; q++) {
          piece[q * g.width + row] = C(derivative[q + g.order][r][lane] * scale * power);
          if (q + g.order < K) slope[q][row] = derivative[q + g.order + 1][r][lane] * scale;
          scale *= in_units / (q + 1);
        }
      }
      put_slopes(piece, slope, first_row, span < 0 ? 0 : span < g.grid_size ? middle : K, per_x * power);

      // The end pieces continue the first and the last interior span.
      for (int side = 0; side < 2 && !g.extended; side++) {
        if (span != (side ? g.grid_size - 1 : 0)) continue;
        C* outside = side ? above : below;
        const double end = (knot[m + side] - origin[lane]) * per_x;
        const bool linear = g.extrapolation == Extrapolation::linear, line = linear && g.order == 0 && K > 0;
        double end_slope[K + 1][K + 1] = {};
        if (line) outside[-3] = 1;  // u in units of x stays finite
        for (int r = 0; r <= K; r++) {
          double value = 0, rise = 0;
          for (int q = K; q >= 0; q--) {
            rise = rise * end / (q + 1) + (q < K ? derivative[q + 1][r][lane] : 0);
            value = value * end / (q + 1) + derivative[q][r][lane];
          }
          outside[r] = C(g.order == 0 ? value : g.order == 1 && linear ? rise * per_x : 0);
          if (!line) continue;
          outside[g.width + r] = C(rise * per_x);
          end_slope[0][r] = rise;
        }
        put_slopes(outside, end_slope, first_row, side ? K : 0, per_x * power);
      }
    }
  }
  if (g.columns) pack_transposed(g.piece(feature, 0), g.size, g.count, g.size, g.columns_of(feature), g.columns);
}

template <class C>
using CompileFeature = void (*)(const Pieces<C>&, const C*, int64_t, double*);

template <class C>
CompileFeature<C> compile_feature_of(int degree) {
  constexpr CompileFeature<C> table[] = {compile_feature<C, 0>, compile_feature<C, 1>, compile_feature<C, 2>,
                                         compile_feature<C, 3>, compile_feature<C, 4>, compile_feature<C, 5>};
  return table[degree];
}

}  // namespace
}  // namespace kan
