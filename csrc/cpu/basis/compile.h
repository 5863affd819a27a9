// From the knots of a feature to its pieces, in float64: see Pieces.
#pragma once

#include "cpu/basis/pieces.h"
#include "cpu/simd/pack.h"

namespace kan {
namespace {

inline float next_up(float x) { return __builtin_nextafterf(x, __builtin_inff()); }
inline double next_up(double x) { return __builtin_nextafter(x, __builtin_inf()); }

// The power of two at or below a positive number.
inline double power_below(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= uint64_t(0x7ff) << 52;
  memcpy(&x, &bits, sizeof bits);
  return x;
}

// The splines of degree K on neighbouring spans, one span [t_m, t_m+1) in each lane, at the origins of the spans.
template <class C, int K>
struct Spans {
  using V = Vec<double>;
  static constexpr int lanes = kLanes<double>;

  V width, inverse, origin;
  V unit;                      // of derivatives: a power of two at or below the width
  V derivative[K + 1][K + 1];  // [q][r]: the q-th derivative in x / unit of spline m - K + r

  // knot: the first of the t_m; K knots before it and K + lanes after it are read too.
  explicit Spans(const double* knot) {
    V T[2 * K + 2];  // T[K] = t_m
#pragma GCC unroll 12
    for (int j = 0; j < 2 * K + 2; j++) T[j] = load<V>(knot - K + j);
    width = T[K + 1] - T[K];
    inverse = 1.0 / width;
    // The origin is rounded first, so that u in the computing type belongs to these very polynomials.
    origin = convert<V>(convert<typename Vector<C, lanes>::Type>((T[K] + T[K + 1]) * 0.5));
    unit = width;
    for (int lane = 0; lane < lanes; lane++) unit[lane] = power_below(width[lane]);

    V reciprocal[K + 1][K + 2], spline[K + 1][K + 1];
    evaluate(T, reciprocal, spline);
    differentiate(reciprocal, spline);
  }

 private:
  // Cox-de Boor: spline[p][r] is spline m - p + r of degree p, reciprocal[p][r] is 1 / (t_j+p - t_j) with j = m - p +
  // r.
  void evaluate(const V (&T)[2 * K + 2], V (&reciprocal)[K + 1][K + 2], V (&spline)[K + 1][K + 1]) const {
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
  }

  // For the q-th derivative the last q steps of the recursion are differences, which cancel less than the derivatives
  // of a polynomial in u would. Derivatives are in x / unit: no T_(K+r) - T_(K-p+r) is narrower than the span, so none
  // of them is large, while derivatives in x can exceed the largest number. A power of two as unit rounds nothing.
  void differentiate(V (&reciprocal)[K + 1][K + 2], const V (&spline)[K + 1][K + 1]) {
#pragma GCC unroll 5
    for (int p = 1; p <= K; p++) {
#pragma GCC unroll 6
      for (int r = 1; r <= p; r++) reciprocal[p][r] *= unit;
    }
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
  }
};

// Fills the tables of one feature.
template <class C, int K>
struct FeatureCompiler {
  using Slope = double[K + 1][K + 1];  // [q][j]: the coefficient of u^q in s_j / scale, see Slopes
  static constexpr int lanes = kLanes<double>, middle = (K + 1) / 2;

  const Pieces<C>& g;
  int64_t feature;
  double* knot;    // in float64; K more before the first one, K + lanes more after the last one
  int first_knot;  // where the first span begins

  // Knots beyond the ends belong to B-splines that do not exist; any increasing values will do.
  void copy_knots(const C* t) const {
    const int knots = g.knots();
    for (int j = -K; j < knots + K + lanes; j++) {
      knot[j] = j < 0 ? t[0] + double(j) : j < knots ? double(t[j]) : t[knots - 1] + double(j - knots + 1);
    }
  }

  void put_bounds(const C* t) const {
    C* bounds = g.bounds_of(feature);
    for (int j = 0; j < g.bound_stride; j++) bounds[j] = j < g.bounds ? t[first_knot + j] : C(__builtin_nan(""));
    // The end of the range belongs to the last interior span.
    bounds[g.grid_size + K - first_knot] = next_up(t[g.grid_size + K]);
  }

  double reach(int row) const { return (knot[row + K] - knot[row]) / larger(1, K); }

  void put_rates() const {
    C* rates = g.rates_of(feature);
    for (int row = 1; row < g.rows(); row++) rates[row] = C(1 / reach(row));
  }

  // The first row of a cell is the middle one, unless another one has a far larger reach. `far` is not in tuning.h,
  // because the choice changes rounding errors and takes the same time.
  void put_permutations() const {
    constexpr double far = 1.5;
    int32_t* next = g.permutation_of(feature);
    for (int cell = 0; cell < g.grid_size; cell++) {
      int first = middle;
      for (int row = 1; row <= K; row++) first = reach(cell + row) > far * reach(cell + first) ? row : first;
      *next++ = first;
      for (int row = 1; row <= K; row++) {
        if (row != first) *next++ = row;
      }
    }
  }

  void put_pieces() const {
    start_piece(0, knot[K], 0);
    start_piece(g.count - 1, knot[g.grid_size + K], 0);
    const int last_span = first_knot + g.count - 2;
    for (int m0 = first_knot; m0 < last_span; m0 += lanes) {
      const Spans<C, K> spans(knot + m0);
      const int count = smaller(lanes, last_span - m0);
      for (int lane = 0; lane < count; lane++) {
        const int m = m0 + lane;
        put_span(spans, lane, m);
        // The end pieces continue the first and the last interior span.
        if (!g.extended && m == K) put_outside(spans, lane, m, 0);
        if (!g.extended && m == K + g.grid_size - 1) put_outside(spans, lane, m, 1);
      }
    }
  }

 private:
  Piece<C> start_piece(int p, double origin, double inverse_width) const {
    const Piece<C> piece = g.piece(feature, p);
    for (int j = 0; j < g.size; j++) piece.number[j] = 0;
    piece.origin() = C(origin);
    piece.inverse_width() = C(inverse_width);
    return piece;
  }

  // per_x^order: the derivative in x is this multiple of that in x / unit.
  double power_of(double per_x) const {
    double power = 1;
    for (int d = 0; d < smaller(g.order, K); d++) power *= per_x;
    return power;
  }

  // The rows of the span [t_m, t_m+1), and the weights of their slopes.
  void put_span(const Spans<C, K>& spans, int lane, int m) const {
    const int span = m - K;
    const int first_row = span < 0 ? 0 : span >= g.grid_size ? g.grid_size - 1 : span;
    const Piece<C> piece = start_piece(1 + m - first_knot, spans.origin[lane], spans.inverse[lane]);
    const double unit = spans.unit[lane], per_x = 1 / unit, power = power_of(per_x);
    const double width = spans.width[lane] / unit;
    Slope slope = {};
    for (int row = 0; row <= K; row++) {
      const int r = first_row + row - span;
      if (r < 0 || r > K) continue;
      double scale = 1;  // width^q / q!
      for (int q = 0; q + g.order <= K; q++) {
        piece.rows(q)[row] = C(spans.derivative[q + g.order][r][lane] * scale * power);
        if (q + g.order < K) slope[q][row] = spans.derivative[q + g.order + 1][r][lane] * scale;
        scale *= width / (q + 1);
      }
    }
    put_slopes(piece, slope, first_row, span < 0 ? 0 : span < g.grid_size ? middle : K, per_x * power);
  }

  // The rows below (side 0) or above (side 1) the range, from those of its first or last span [t_m, t_m+1).
  void put_outside(const Spans<C, K>& spans, int lane, int m, int side) const {
    const Piece<C> outside = g.piece(feature, side ? g.count - 1 : 0);
    const double per_x = 1 / spans.unit[lane], end = (knot[m + side] - spans.origin[lane]) * per_x;
    const bool linear = g.extrapolation == Extrapolation::linear, line = linear && g.order == 0 && K > 0;
    Slope slope = {};
    if (line) outside.inverse_width() = 1;  // u in units of x stays finite
    for (int r = 0; r <= K; r++) {
      double value = 0, rise = 0;
      for (int q = K; q >= 0; q--) {
        rise = rise * end / (q + 1) + (q < K ? spans.derivative[q + 1][r][lane] : 0);
        value = value * end / (q + 1) + spans.derivative[q][r][lane];
      }
      outside.rows(0)[r] = C(g.order == 0 ? value : g.order == 1 && linear ? rise * per_x : 0);
      if (!line) continue;
      outside.rows(1)[r] = C(rise * per_x);
      slope[0][r] = rise;
    }
    put_slopes(outside, slope, m - K, side ? K : 0, per_x * power_of(per_x));
  }

  // The weights of slopes, as Slopes has them: all s_j; or w'_j for the rows j <= before and w_j for the others.
  void put_slopes(const Piece<C>& piece, const Slope& slope, int first_row, int before, double scale) const {
    if (g.slopes == Slopes::none) return;
    if (g.slopes == Slopes::rows) {
      for (int q = 0; q + g.order < K; q++) {
        for (int row = 0; row <= K; row++) piece.slopes(q)[row] = C(slope[q][row] * scale);
      }
      return;
    }
    double factor[K + 1] = {scale};
    for (int row = 1; row <= K; row++) factor[row] = reach(first_row + row) * scale;
    for (int q = 0; q + g.order < K; q++) {
      double low = 0, high = 0;
      for (int row = 0; row <= K; row++) low -= slope[q][row];
      for (int row = K; row > 0; row--) {
        high += slope[q][row];
        low += slope[q][row];
        piece.slopes(q)[row] = C((row <= before ? low : high) * factor[row]);
      }
      piece.slopes(q)[0] = C((high + slope[q][0]) * factor[0]);
    }
  }
};

// Fills the tables of `feature` from the knots t. `scratch` holds knots() + 2 * degree + kLanes<double> doubles.
template <class C, int K>
void compile_feature(const Pieces<C>& g, const C* t, int64_t feature, double* scratch) {
  const FeatureCompiler<C, K> compiler{g, feature, scratch + K, g.extended ? 0 : K};
  compiler.copy_knots(t);
  compiler.put_bounds(t);
  if (g.slopes == Slopes::differences) {
    compiler.put_rates();
    compiler.put_permutations();
  }
  compiler.put_pieces();
  if (g.columns) {
    pack_transposed(g.piece(feature, 0).number, g.size, g.count, g.size, g.columns_of(feature), g.columns);
  }
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
