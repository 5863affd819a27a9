// The basis rows of a layer: a table of polynomials for every span of every input, and their evaluation.
//
// A cell is the interval between two knots, or all beyond the first or last knot. In each cell k + 1 neighbouring
// splines are polynomials in u = (x - origin) * scale. The table holds the derivative of the wanted order, and cells
// outside of the grid range hold the extrapolation, so that evaluation knows nothing of either.
#pragma once

#include "platform.h"

namespace kan_cuda {

// The coefficients of one power of u in all rows, padded so that 16 bytes are read at a time.
template <class T, int K>
constexpr int kPadded = K < 2           ? K + 1
                        : K < 4         ? 4
                        : sizeof(T) > 4 ? 6
                                        : 8;
template <class T, int K>
struct alignas(kPadded<T, K> * sizeof(T) < 16 ? kPadded<T, K> * sizeof(T) : 16) Coefficients {
  T row[kPadded<T, K>];
};

template <class T>
struct alignas(2 * sizeof(T)) Frame {
  T origin, scale;
};

// The values of all basis rows that are not 0 at one x[b,i]: splines first .. first + K, and the base function.
template <class T, int K>
struct alignas(16) Record {
  T value[K + 1];
  T base;
  int first;
};

template <class T, int K>
struct Basis {
  Source<T> x;                 // (batch, in)
  Source<T> v;                 // (batch, in), or null for ones
  T* breaks;                   // (in, stride): cell c holds x if c breaks are <= x; NaN behind the last one
  Coefficients<T, K>* powers;  // (in, K + 1, cells): samples of one input read few cache lines
  Frame<T>* frames;            // (in, cells)
  T* silu;                     // see silu_polynomials
  int64_t batch, in;
  int knots, stride;  // stride: a power of 2 > knots
  Base base;
  int order;
  bool has_spline, has_base;
  bool bounded;  // whether a cell beyond the first or last knot is constant, so that x may be clamped

  __host__ __device__ int rows() const { return knots - K - 1; }
  __host__ __device__ int cells() const { return knots + 1; }
};

// Coefficients of Q_d and of d Q_(d-1), d = order > 0: silu = x s with s = sigmoid(x), so
//     silu^(d) = x s^(d) + d s^(d-1),
// where s^(n) = p Q_n(t) for n > 0 with p = s (1 - s) and t = s - 1/2,
//     Q_1 = 1,  Q_(n+1) = (1/4 - t^2) Q_n' - 2 t Q_n.
// Polynomials in s itself would cancel more. `scratch` holds 2 (order + 1) numbers.
template <class T>
__device__ void silu_polynomials(int order, double* scratch, T* result) {
  double *q = scratch, *next = scratch + order + 1;
  for (int j = 0; j < 2 * order; ++j) result[j] = 0;
  q[0] = 1;
  for (int n = 1; n <= order; ++n) {
    for (int j = 0; j < n; ++j) {
      if (n == order) result[j] = T(q[j]);
      if (n == order - 1) result[order + j] = T(order * q[j]);
    }
    for (int j = 0; j <= n; ++j) next[j] = (j + 1 < n ? (j + 1) * q[j + 1] / 4 : 0) - (j > 0 ? (j + 1) * q[j - 1] : 0);
    for (int j = 0; j <= n; ++j) q[j] = next[j];
  }
}

template <class T, int K>
__device__ T base_function(const Basis<T, K>& f, T x) {
  if (f.base == Base::identity) return f.order == 0 ? x : T(f.order == 1) + 0 * x;
  if (f.base != Base::silu) return 0 * x;
  const T e = exp(-fabs(x)), tail = e * reciprocal(1 + e), s = x < 0 ? tail : 1 - tail;
  if (f.order == 0) return x * s;
  const T t = x < 0 ? tail - T(0.5) : T(0.5) - tail;
  T outer = 0, inner = 0;
  for (int j = f.order - 1; j >= 0; --j) outer = outer * t + f.silu[j], inner = inner * t + f.silu[f.order + j];
  const T value = tail * (1 - tail) * (x * outer + inner);
  return f.order == 1 ? value + s : value;
}

// Writes the polynomials of one cell to the table, which holds zeros. The Cox-de Boor recursion computes their
// coefficients in double precision; its last `order` steps are differences, as the derivative of a B-spline is.
template <class T, int K>
__device__ void make_cell(const T* t, int cell, int order, Extrapolation extrapolation, const Basis<T, K>& f,
                          int64_t i) {
  const int knots = f.knots, rows = f.rows();
  auto knot = [&](int j) { return double(t[j < 0 ? 0 : j < knots ? j : knots - 1]); };

  int span = cell - 1;
  const bool left = span < K && extrapolation != Extrapolation::zero,
             right = span >= rows && extrapolation != Extrapolation::zero;
  if (left) span = K;
  if (right) span = rows - 1;
  const double width = knot(span + 1) - knot(span), scale = width > 0 ? reciprocal(width) : 1;
  const double origin = T(knot(span) + width / 2);  // powers of u are best conditioned around the middle

  double p[K + 1][K + 1] = {};  // [row - (span - K)][power of u]
  p[K][0] = span >= 0 && span < knots - 1 && order <= K;
#pragma unroll
  for (int degree = 1; degree <= K; ++degree) {
#pragma unroll
    for (int q = K - degree; q <= K; ++q) {
      const int row = span - K + q;
      const double up = knot(row + degree) - knot(row), down = knot(row + degree + 1) - knot(row + 1);
      const double a = up > 0 ? reciprocal(up) : 0, b = down > 0 ? reciprocal(down) : 0;
#pragma unroll
      for (int n = degree; n >= 0; --n) {
        const double here = p[q][n], next = q < K ? p[q + 1][n] : 0;
        if (degree > K - order) {
          p[q][n] = degree * (a * here - b * next);
        } else {
          const double here_u = n > 0 ? p[q][n - 1] : 0, next_u = q < K && n > 0 ? p[q + 1][n - 1] : 0;
          p[q][n] = a * ((origin - knot(row)) * here + width * here_u) +
                    b * ((knot(row + degree + 1) - origin) * next - width * next_u);
        }
      }
    }
  }

  const int taylor = (extrapolation == Extrapolation::linear) - order;  // degree of what continues beyond the range
  const double end = knot(left ? K : rows), u = (end - origin) * scale;
  f.frames[i * f.cells() + cell] = {T(left || right ? end : origin), T(scale)};
  const int lowest = span - K, first = lowest < 0 ? 0 : lowest < rows - K ? lowest : rows - K - 1;
  Coefficients<T, K>* powers = f.powers + i * (K + 1) * f.cells() + cell;
#pragma unroll
  for (int q = 0; q <= K; ++q) {
    double* c = p[q];
    if (left || right) {  // the Taylor polynomial at the end of the range
      double value = 0, slope = 0;
#pragma unroll
      for (int n = K; n >= 0; --n) slope = slope * u + value, value = value * u + c[n];
#pragma unroll
      for (int n = 0; n <= K; ++n) c[n] = n > taylor ? 0 : n == 0 ? value : slope;
    }
    const int r = lowest + q - first;
    if (r < 0 || r > K) continue;
    Coefficients<T, K>* power = powers;
#pragma unroll
    for (int n = 0; n <= K; ++n, power += f.cells()) power->row[r] = T(c[n]);
  }
}

// A block for each input. `scratch` holds 2 (order + 1) numbers.
template <class T, int K>
__global__ void __launch_bounds__(kWarp)
    table_kernel(const T* __restrict__ grid, const Basis<T, K> f, const Extrapolation extrapolation, double* scratch) {
  const int64_t i = blockIdx.x;
  const T* t = grid + i * f.knots;
  if (i == 0 && threadIdx.x == 0) silu_polynomials(f.order, scratch, f.silu);
  const int numbers = (K + 1) * f.cells();
  for (int e = threadIdx.x; e < numbers; e += kWarp) f.powers[i * numbers + e] = {};
  __syncthreads();
  for (int cell = threadIdx.x; cell < f.cells(); cell += kWarp) make_cell(t, cell, f.order, extrapolation, f, i);
  for (int j = threadIdx.x; j < f.stride; j += kWarp) {
    const T knot = j < f.knots ? t[j] : T(NAN);
    f.breaks[i * f.stride + j] = j == f.rows() ? next_up(knot) : knot;  // the last interior span is closed
  }
}

// What the basis has for one input.
template <class T, int K>
class Input {
  const Basis<T, K>& f_;
  const T* breaks_;
  const Coefficients<T, K>* powers_;
  const Frame<T>* frames_;
  T low_, high_;  // beyond them the rows are constant; infinite if they are not, so that clamping x changes nothing

 public:
  __device__ Input(const Basis<T, K>& f, int64_t i)
      : f_(f),
        breaks_(f.breaks + i * f.stride),
        powers_(f.powers + i * (K + 1) * f.cells()),
        frames_(f.frames + i * f.cells()),
        low_(f.has_spline && f.bounded ? breaks_[0] : T(-INFINITY)),
        high_(f.has_spline && f.bounded ? breaks_[f.knots - 1] : T(INFINITY)) {}

  // The rows at x, times v.
  __device__ Record<T, K> evaluate(T x, T v) const {
    Record<T, K> record = {};
    if (f_.has_spline) {
      unsigned cell = 0;
      for (unsigned step = f_.stride / 2u; step > 0; step /= 2) cell += breaks_[cell + step - 1] <= x ? step : 0;
      const Frame<T> frame = frames_[cell];
      const T u = ((x < low_ ? low_ : x > high_ ? high_ : x) - frame.origin) * frame.scale;
      const Coefficients<T, K>* power = powers_ + cell + K * f_.cells();
      Coefficients<T, K> next = *power;
#pragma unroll
      for (int r = 0; r <= K; ++r) record.value[r] = next.row[r] + 0 * u;  // NaN in any degree
#pragma unroll
      for (int n = K - 1; n >= 0; --n) {
        next = *(power -= f_.cells());
#pragma unroll
        for (int r = 0; r <= K; ++r) record.value[r] = record.value[r] * u + next.row[r];
      }
#pragma unroll
      for (int r = 0; r <= K; ++r) record.value[r] *= v;
      record.first = min(max(int(cell) - 1 - K, 0), f_.rows() - K - 1);
    }
    if (f_.has_base) record.base = base_function(f_, x) * v;
    return record;
  }
};

template <class T, int K>
__device__ Record<T, K> evaluate(const Basis<T, K>& f, int64_t b, int64_t i) {
  if (b >= f.batch || i >= f.in) return {};
  return Input<T, K>(f, i).evaluate(f.x[b * f.in + i], f.v.data ? f.v[b * f.in + i] : T(1));
}

}  // namespace kan_cuda
