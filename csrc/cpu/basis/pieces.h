// The grid as a table of polynomials. Within one span every derivative of an extrapolated B-spline is a polynomial of
// degree at most k, so the table settles degree, order and extrapolation once per call.
#pragma once

#include "cpu/simd/avx512.h"

namespace kan {
namespace {

// A slope is a derivative of order m = order + 1, sum_j s_j c_j, where s_j is the derivative of row j and c_j its
// coefficient: the s_j are weights of rows. Inside of the range they add up to 0, so a slope is also a sum of
// differences with weights w_j,
//     sum_j s_j c_j = sum_j>0 w_j e_j,  e_j = (c_j - c_(j-1)) / reach_j,  w_j = (s_j + ... + s_k) reach_j,
// where reach_j = (t_(r+k) - t_r) / k for r = first_row + j. The e_j are the coefficients of a spline of degree k - 1,
// the first derivative. So the w_j add up to 1 for m = 1 and to 0 for m > 1, and for any row a
//     sum_j s_j c_j = [m = 1] e_a + sum_j>0 w_j (e_j - e_a),
// two products less than there are rows. A small e_a loses least to rounding, so a has a large reach. Outside of the
// range the s_j add up to some w_0. Below it c_0 is left over and above it c_k,
//     sum_j s_j c_j = w_0 c_0 + sum_j>0 w_j e_j = w_0 c_k + sum_j>0 w'_j e_j,  w'_j = -(s_0 + ... + s_(j-1)) reach_j,
// and inside, where w_0 = 0, w'_j is w_j.
enum class Slopes { none, rows, differences };

// For one feature the real line is cut at `bounds` into pieces: outside, span, ..., span, outside. A piece holds the
// polynomials in u = (x - origin) * inverse width of the rows first_row .. first_row + k, and where slopes are wanted
// those of their weights. Rows that are not active are 0. The origin of a span is its middle: with |u| <= 1/2 the
// powers of u cancel least.
template <class C>
struct Piece {
  // A piece is `size` numbers: these two, two that are not used, then the coefficients of u^0, of u^1, ..., of u^k, and
  // where slopes are wanted those of u^0 to u^(k-1) in their weights: each k + 1 rows, padded to `width`.
  static constexpr int origin_at = 0, inverse_width_at = 1, coefficients_at = 4;

  C* number;
  int degree, width;

  C& origin() const { return number[origin_at]; }
  C& inverse_width() const { return number[inverse_width_at]; }
  // The coefficients of u^q in all rows.
  C* rows(int q) const { return number + coefficients_at + q * width; }
  // The coefficients of u^q in the weights of all slopes.
  C* slopes(int q) const { return rows(degree + 1 + q); }
};

// The pieces of all features.
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
  int32_t* permutation_table;
  int32_t* table;  // of a feature: features with the same knots share one

  int knots() const { return grid_size + 2 * degree + 1; }
  int rows() const { return grid_size + degree; }
  C* bounds_of(int64_t feature) const { return bound_table + int64_t(table[feature]) * bound_stride; }
  // 1 / reach of every row but the first.
  C* rates_of(int64_t feature) const { return rate_table + int64_t(table[feature]) * rows(); }
  // The rows 1 .. k of every cell: first one with about the largest reach, then the others.
  int32_t* permutation_of(int64_t feature) const {
    return permutation_table + int64_t(table[feature]) * grid_size * degree;
  }
  Piece<C> piece(int64_t feature, int p) const {
    return {piece_table + (int64_t(table[feature]) * count + p) * size, degree, width};
  }
  // All pieces of a feature transposed: one row of `columns` for each number of a piece.
  C* columns_of(int64_t feature) const { return piece_columns + int64_t(table[feature]) * columns * size; }
  C* origins_of(int64_t feature) const { return columns_of(feature) + Piece<C>::origin_at * columns; }
  C* inverse_widths_of(int64_t feature) const { return columns_of(feature) + Piece<C>::inverse_width_at * columns; }
  // Coefficients of u^0 in row 0; `width` rows of columns further on are those of the next power.
  C* coefficients_of(int64_t feature) const { return columns_of(feature) + Piece<C>::coefficients_at * columns; }
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
  g.size = Piece<C>::coefficients_at + (layer.degree + 1 + (slopes == Slopes::none ? 0 : layer.degree)) * g.width;
  g.shift = 1 + (g.extended ? layer.degree : 0);
  g.poison_infinite = layer.extrapolation == Extrapolation::linear && layer.order == 0;
  return g;
}

}  // namespace
}  // namespace kan
