// Layers with few outputs: samples in the lanes, and every edge a piecewise polynomial that is looked up in registers.
#pragma once

#include "tiling.h"

namespace kan {
namespace {

// On a piece of the grid an edge is sum_r c_r sum_q b_qr u^q = sum_q p_q u^q: k + 1 look-ups and multiply-adds for each
// edge and vector of samples, and no sorting. Tiles of outputs, with the outputs in the lanes, take as long for one
// output as for a whole vector of them.
template <class S>
struct Curves {
  using C = Compute<S>;
  using V = Vec<C>;
  static constexpr int lanes = kLanes<C>, columns = 2 * lanes;
  static constexpr int64_t block = 16, most_outs = 32, most_bytes = 1 << 20;

  Problem<C> problem;
  const Operands& op;
  const Layer& layer;
  bool input;  // grad_input, not forward
  int64_t samples, padded;
  int threads;
  C *curves, *base_weights;  // [feature][output][power][piece]; [feature][output]
  char* workspaces;
  int64_t workspace_bytes;

  // Whether this form computes the layer, and faster: the curves must be worth their making. Beside grad_coef, which
  // makes the plans of the tiles in any case, that takes more samples.
  static bool suit(const Layer& l, const Operands& o) {
    if (!kLookup || !o.spline_weight || l.out < 1 || l.out > most_outs) return false;
    const Pieces<C> pieces = describe_pieces<C>(l);
    const int64_t bytes = l.in * l.out * (l.degree + 1) * columns * int64_t(sizeof(C));
    return pieces.columns && l.grid_size + l.degree <= columns && bytes <= most_bytes &&
           l.batch >= (o.grad_spline || o.grad_base ? 2048 : 64 + l.out * l.out);
  }

  // A tile of samples: per feature x, then u, the piece and the base function; sums for every output or input.
  struct Workspace {
    C *x, *v, *u, *base, *g, *sum, *part;
    typename Bits<C>::Int* piece;
    double* scratch;

    Workspace(Arena& arena, const Curves& c)
        : x(arena.take<C>(block * c.padded)),
          v(arena.take<C>(c.op.v ? block * c.padded : 0)),
          u(arena.take<C>(c.padded)),
          base(arena.take<C>(c.padded)),
          g(arena.take<C>(c.input ? c.layer.out * c.padded : 0)),
          sum(arena.take<C>((c.input ? block : c.layer.out) * c.padded)),
          part(arena.take<C>(c.input ? 0 : c.layer.out * c.padded)),
          piece(arena.take<typename Bits<C>::Int>(c.padded)),
          scratch(arena.take<double>(c.problem.scratch_size())) {}
  };

  Curves(const Layer& l, const Operands& o, bool grad_input)
      : problem(l, true, o.base_weight && l.base != Base::zero, false, false),
        op(o),
        layer(problem.layer),
        input(grad_input) {
    samples = samples_per_tile(layer.batch, (2 * layer.out + 8) * sizeof(C));
    padded = round_up(samples, lanes);
    threads = threads_for(layer, problem.rows);
  }

  void place(Arena& arena) {
    problem.place_tables(arena, layer.in);
    curves = arena.take<C>(layer.in * layer.out * (layer.degree + 1) * columns);
    base_weights = arena.take<C>(layer.in * layer.out);
    workspaces = arena.take<char>(0);
  }

  void run() {
    const Memory memory(bytes_of(*this));
    Arena arena(memory.data());
    place(arena);
    const int64_t blocks = ceil_div(layer.in, block), tiles = ceil_div(layer.batch, samples);
    parallel_for(blocks < 4 ? 1 : threads, blocks, [](void* c, int64_t i, int w) { self(c).prepare(i, w); }, this);
    parallel_for(threads, tiles, [](void* c, int64_t i, int w) { self(c).task(i, w); }, this);
  }

  static Curves& self(void* c) { return *static_cast<Curves*>(c); }
  C* curve(int64_t feature, int64_t o) const {
    return curves + (feature * layer.out + o) * (layer.degree + 1) * columns;
  }

  // The polynomials of a block of features.
  void prepare(int64_t index, int worker) {
    const int64_t first = index * block, count = smaller(block, layer.in - first);
    const Pieces<C>& g = problem.basis.pieces;
    problem.compile(static_cast<const C*>(op.grid), first, count, workspace_of(*this, worker).scratch);
    IntVec<C> cell[2];
    for (int lane = 0; lane < columns; lane++) {
      const int c = lane - g.shift;
      cell[lane / lanes][lane % lanes] = c < 0 ? 0 : c >= g.grid_size ? g.grid_size - 1 : c;
    }
    for (int64_t i = first; i < first + count; i++) {
      const C* table = g.columns_of(i) + 4 * columns;
      for (int64_t o = 0; o < layer.out; o++) {
        const S* weight = static_cast<const S*>(op.spline_weight) + (o * layer.in + i) * problem.rows;
        const V low = fetch(weight, problem.rows), high = fetch(weight + lanes, problem.rows - lanes);
        C* target = curve(i, o);
        for (int half = 0; half < 2; half++) {
          for (int q = 0; q <= layer.degree; q++) {
            V sum = {};
            for (int r = 0; r <= layer.degree; r++) {
              sum += lookup(low, high, cell[half] + r) * load<V>(table + (q * g.width + r) * columns + half * lanes);
            }
            store(target + q * columns + half * lanes, sum);
          }
        }
        if (problem.basis.has_base) base_weights[i * layer.out + o] = get(op.base_weight, o * layer.in + i);
      }
    }
  }

  static C get(const void* tensor, int64_t index) { return fetch(static_cast<const S*>(tensor) + index, 1)[0]; }

  void task(int64_t index, int worker) {
    Workspace w = workspace_of(*this, worker);
    const int64_t row = index * samples, n = smaller(samples, layer.batch - row);
    const auto of = [&](const void* tensor, int64_t columns) { return static_cast<const S*>(tensor) + row * columns; };
    if (input) pack_transposed(of(op.g, layer.out), layer.out, n, layer.out, w.g, padded);
    for (int64_t i0 = 0; i0 < layer.in; i0 += block) {
      const int64_t count = smaller(block, layer.in - i0);
      pack_transposed(of(op.x, layer.in) + i0, layer.in, n, count, w.x, padded);
      if (op.v) pack_transposed(of(op.v, layer.in) + i0, layer.in, n, count, w.v, padded);
      for (int64_t i = 0; i < count; i++) {
        locate(w, i0 + i, w.x + i * padded, n);
        const C* v = op.v ? w.v + i * padded : nullptr;
        // Sums of blocks, then their sum: shorter sums have smaller rounding errors.
        if (input) {
          degree_of([&](auto k) { grad_input<k>(w, i0 + i, n, w.sum + i * padded); });
        } else {
          degree_of([&](auto k) { forward<k>(w, i0 + i, v, n, i0 == 0 ? w.sum : w.part, i == 0); });
        }
      }
      if (input) unpack_transposed(w.sum, padded, static_cast<S*>(op.grad_x) + row * layer.in + i0, layer.in, n, count);
      if (!input && i0 > 0) {
        for (int64_t j = 0; j < layer.out * padded; j += lanes)
          store(w.sum + j, load<V>(w.sum + j) + load<V>(w.part + j));
      }
    }
    if (input) return;
    for (int64_t o = 0; o < layer.out && op.bias; o++) {
      const C bias = get(op.bias, o);
      for (int64_t b = o * padded; b < o * padded + n; b += lanes) store(w.sum + b, load<V>(w.sum + b) + bias);
    }
    unpack_transposed(w.sum, padded, static_cast<S*>(op.y) + row * layer.out, layer.out, n, layer.out);
  }

  template <class Run>
  void degree_of(Run run) const {
    switch (layer.degree) {
      case 0:
        return run(std::integral_constant<int, 0>{});
      case 1:
        return run(std::integral_constant<int, 1>{});
      case 2:
        return run(std::integral_constant<int, 2>{});
      case 3:
        return run(std::integral_constant<int, 3>{});
      case 4:
        return run(std::integral_constant<int, 4>{});
      case 5:
        return run(std::integral_constant<int, 5>{});
    }
  }

  // u, piece and base function of the samples of one feature.
  void locate(Workspace& w, int64_t feature, const C* x, int64_t n) const {
    const Locator<C> locator(problem.basis.pieces, feature);
    const bool silu = problem.basis.base.kind == Base::silu;
    for (int64_t b = 0; b < n; b += lanes) {
      const V xs = load<V>(x + b);
      const auto found = locator(xs);
      store(w.u + b, problem.basis.pieces.poison_infinite ? found.u + (xs - xs) : found.u);
      store(w.piece + b, found.piece);
      if (problem.basis.has_base) store(w.base + b, problem.basis.base(xs, Sigmoid<C>(silu ? xs : V{})));
    }
  }

  // sums[o] (+)= v (curve_o(u) + base weight * base)
  template <int K>
  void forward(const Workspace& w, int64_t feature, const C* v, int64_t n, C* sums, bool first) const {
    for (int64_t o = 0; o < layer.out; o++, sums += padded) {
      const C* table = curve(feature, o);
      V p[K + 1][2];
#pragma GCC unroll 6
      for (int q = 0; q <= K; q++) {
        p[q][0] = load<V>(table + q * columns);
        p[q][1] = load<V>(table + q * columns + lanes);
      }
      const C weight = problem.basis.has_base ? base_weights[feature * layer.out + o] : C(0);
      for (int64_t b = 0; b < n; b += lanes) {
        const V u = load<V>(w.u + b);
        const auto piece = load<IntVec<C>>(w.piece + b);
        V value = lookup(p[K][0], p[K][1], piece);
        if (K == 0) value += u * 0;
#pragma GCC unroll 6
        for (int q = K - 1; q >= 0; q--) value = value * u + lookup(p[q][0], p[q][1], piece);
        if (problem.basis.has_base) value += weight * load<V>(w.base + b);
        if (v) value *= load<V>(v + b);
        store(sums + b, first ? value : load<V>(sums + b) + value);
      }
    }
  }

  // gx = sum over the outputs of g (curve_o(u) + base weight * base)
  template <int K>
  void grad_input(const Workspace& w, int64_t feature, int64_t n, C* gx) const {
    for (int64_t b = 0; b < n; b += lanes) {
      const V u = load<V>(w.u + b);
      const auto piece = load<IntVec<C>>(w.piece + b);
      V sum[K + 1] = {}, base_sum = {};
      const C* table = curve(feature, 0);
      for (int64_t o = 0; o < layer.out; o++, table += (K + 1) * columns) {
        const V g = load<V>(w.g + o * padded + b);
#pragma GCC unroll 6
        for (int q = 0; q <= K; q++) {
          sum[q] += g * lookup(load<V>(table + q * columns), load<V>(table + q * columns + lanes), piece);
        }
        if (problem.basis.has_base) base_sum += g * base_weights[feature * layer.out + o];
      }
      V value = sum[K];
      if (K == 0) value += u * 0;
#pragma GCC unroll 6
      for (int q = K - 1; q >= 0; q--) value = value * u + sum[q];
      if (problem.basis.has_base) value += base_sum * load<V>(w.base + b);
      store(gx + b, value);
    }
  }
};

}  // namespace
}  // namespace kan
