// A layer as docs/architecture.md defines it, evaluated as simply as can be: what check.cpp compares the kernels with.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace exact {

// Numbers of a problem, as integers and reals of the highest precision at hand. Layouts: docs/architecture.md.
template <class R>
struct Numbers {
  kan::Layer layer;
  std::vector<R> grid, x, v, g, edge_g, spline_weight, base_weight, bias;
};

// The d-th derivative of the j-th B-spline of degree p on the knots t, for x in the span [t_s, t_s+1): Cox-de Boor.
template <class R>
R spline(const R* t, int j, int p, int d, int s, R x) {
  if (d > p || s < j || s > j + p) return 0;
  if (p == 0) return 1;
  const R left = t[j + p] - t[j], right = t[j + p + 1] - t[j + 1];
  if (d > 0) return p * (spline(t, j, p - 1, d - 1, s, x) / left - spline(t, j + 1, p - 1, d - 1, s, x) / right);
  return (x - t[j]) / left * spline(t, j, p - 1, 0, s, x) +
         (t[j + p + 1] - x) / right * spline(t, j + 1, p - 1, 0, s, x);
}

// The d-th derivatives of all spline rows at x.
template <class R>
std::vector<R> rows(const kan::Layer& layer, const R* t, R x, int d) {
  const int k = layer.degree, count = layer.grid_size + k;
  const R start = t[k], end = t[count], nearest = x < start ? start : x > end ? end : x;
  const bool extended = layer.extrapolation == kan::Extrapolation::zero, outside = nearest != x && !extended;
  const bool line = outside && layer.extrapolation == kan::Extrapolation::linear;
  const R at = outside ? nearest : x;
  int s = -1;
  for (int m = 0; m < count + k; m++) s = t[m] <= at && at < t[m + 1] ? m : s;
  if (at == end) s = count - 1;
  std::vector<R> result(count);
  for (int j = 0; j < count && s >= 0; j++) {
    if (!outside || d == 0 || (line && d == 1)) result[j] = spline(t, j, k, d, s, at);
    if (line && d == 0) result[j] += (x - nearest) * spline(t, j, k, 1, s, at);
  }
  return result;
}

// The n-th derivative of the logistic function, a polynomial in its value: s' = s - s^2.
template <class R>
R sigmoid(R x, int n) {
  std::vector<R> c = {0, 1};
  for (int i = 0; i < n; i++) {
    std::vector<R> next(c.size() + 1);
    for (size_t j = 1; j < c.size(); j++) {
      next[j] += R(j) * c[j];
      next[j + 1] -= R(j) * c[j];
    }
    c = next;
  }
  const R s = 1 / (1 + std::exp(-x));
  R value = 0;
  for (size_t j = c.size(); j-- > 0;) value = value * s + c[j];
  return value;
}

template <class R>
R base(kan::Base kind, R x, int d) {
  if (kind == kan::Base::zero) return 0;
  if (kind == kan::Base::identity) return d == 0 ? x : R(d == 1);
  return x * sigmoid(x, d) + (d ? d * sigmoid(x, d - 1) : R(0));
}

// A sum with what bounds its rounding errors: the sum of the sizes of its terms. `doubt` is the size of terms whose
// sign rounding may turn.
template <class R>
struct Sum {
  R value = 0, size = 0, doubt = 0;

  void add(R factor, R term) { add(factor, Sum{term, std::abs(term), 0}); }
  void add(R factor, const Sum& term) {
    value += factor * term.value;
    size += std::abs(factor) * term.size;
    doubt += std::abs(factor) * term.doubt;
  }
};

template <class R>
using Sums = std::vector<Sum<R>>;

template <class R>
struct Row {
  std::vector<R> splines;
  R base;
};

template <class R>
Row<R> row(const Numbers<R>& p, int64_t b, int64_t i, int d) {
  const kan::Layer& l = p.layer;
  const R x = p.x[b * l.in + i];
  return {rows(l, &p.grid[i * (l.grid_size + 2 * l.degree + 1)], x, d), base(l.base, x, d)};
}

// phi_oi^(d) at the place whose rows are given.
template <class R>
Sum<R> edge(const Numbers<R>& p, const Row<R>& row, int64_t o, int64_t i) {
  const int64_t e = o * p.layer.in + i, count = row.splines.size();
  Sum<R> value;
  value.add(p.base_weight[e], row.base);
  for (int64_t r = 0; r < count; r++) {
    if (row.splines[r] != 0) value.add(p.spline_weight[e * count + r], row.splines[r]);
  }
  return value;
}

template <class R>
struct Gradients {
  Sums<R> x, spline, base, bias;

  explicit Gradients(const kan::Layer& l)
      : x(l.batch * l.in), spline(l.out * l.in * (l.grid_size + l.degree)), base(l.out * l.in), bias(l.out) {}

  void add_coefficients(int64_t edge, const Row<R>& row, const Sum<R>& g) {
    const int64_t count = row.splines.size();
    base[edge].add(row.base, g);
    for (int64_t r = 0; r < count; r++) {
      if (row.splines[r] != 0) spline[edge * count + r].add(row.splines[r], g);
    }
  }
};

template <class R>
Sums<R> forward(const Numbers<R>& p) {
  const kan::Layer& l = p.layer;
  Sums<R> y(l.batch * l.out);
  for (int64_t b = 0; b < l.batch; b++) {
    for (int64_t o = 0; o < l.out; o++) y[b * l.out + o].add(1, p.bias[o]);
    for (int64_t i = 0; i < l.in; i++) {
      const Row<R> at = row(p, b, i, l.order);
      for (int64_t o = 0; o < l.out; o++) y[b * l.out + o].add(p.v[b * l.in + i], edge(p, at, o, i));
    }
  }
  return y;
}

// slope: the order of the derivative that the gradient in x takes.
template <class R>
Gradients<R> backward(const Numbers<R>& p, int slope) {
  const kan::Layer& l = p.layer;
  Gradients<R> result(l);
  for (int64_t b = 0; b < l.batch; b++) {
    for (int64_t o = 0; o < l.out; o++) result.bias[o].add(1, p.g[b * l.out + o]);
    for (int64_t i = 0; i < l.in; i++) {
      const Row<R> at = row(p, b, i, l.order), above = row(p, b, i, slope);
      for (int64_t o = 0; o < l.out; o++) {
        Sum<R> g;
        g.add(p.v[b * l.in + i], p.g[b * l.out + o]);
        result.x[b * l.in + i].add(p.g[b * l.out + o], edge(p, above, o, i));
        result.add_coefficients(o * l.in + i, at, g);
      }
    }
  }
  return result;
}

template <class R>
Sums<R> edge_magnitude(const Numbers<R>& p) {
  const kan::Layer& l = p.layer;
  Sums<R> y(l.out * l.in);
  for (int64_t b = 0; b < l.batch; b++) {
    for (int64_t i = 0; i < l.in; i++) {
      const Row<R> at = row(p, b, i, 0);
      for (int64_t o = 0; o < l.out; o++) {
        const Sum<R> phi = edge(p, at, o, i);
        y[o * l.in + i].add(R(phi.value < 0 ? -1 : 1) / l.batch, phi);
      }
    }
  }
  return y;
}

// unit: the rounding unit of the kernels; a value below a few of them may have either sign.
template <class R>
Gradients<R> edge_magnitude_backward(const Numbers<R>& p, R unit) {
  const kan::Layer& l = p.layer;
  Gradients<R> result(l);
  for (int64_t b = 0; b < l.batch; b++) {
    for (int64_t i = 0; i < l.in; i++) {
      const Row<R> at = row(p, b, i, 0), above = row(p, b, i, 1);
      for (int64_t o = 0; o < l.out; o++) {
        const Sum<R> phi = edge(p, at, o, i), slope = edge(p, above, o, i);
        const R size = p.edge_g[o * l.in + i] / l.batch, sign = R(phi.value > 0) - R(phi.value < 0);
        const bool doubtful = std::abs(phi.value) <= 4 * unit * phi.size;
        Sum<R> g{sign * size, std::abs(size), doubtful ? 2 * std::abs(size) : R(0)}, gx;
        gx.add(g.value, slope);
        gx.doubt += g.doubt * std::abs(slope.value);
        result.x[b * l.in + i].add(1, gx);
        result.add_coefficients(o * l.in + i, at, g);
      }
    }
  }
  return result;
}

}  // namespace exact
