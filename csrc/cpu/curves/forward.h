// The forward contraction of layers with few outputs.
#pragma once

#include "cpu/curves/table.h"

namespace kan {
namespace {

template <class S>
struct Curves : CurveTable<S> {
  using Table = CurveTable<S>;
  using Table::block, Table::columns, Table::lanes, Table::layer, Table::op, Table::padded, Table::setup,
      Table::samples;
  using typename Table::C;
  using typename Table::V;

  // Whether this form computes the layer, and in less time than tiles do.
  static bool suit(const Layer& l, const Operands& o) {
    return o.spline_weight && Table::fits(l) && Table::worth_making(l);
  }

  // One tile of samples: x and v of a block of features; u, the piece and the base function of one feature; the sums of
  // every output.
  struct Workspace {
    C *x, *v, *u, *base, *sum, *part;
    typename Bits<C>::Int* piece;
    double* scratch;

    Workspace(Arena& arena, const Curves& c)
        : x(arena.take<C>(block * c.padded)),
          v(arena.take<C>(c.op.v ? block * c.padded : 0)),
          u(arena.take<C>(c.padded)),
          base(arena.take<C>(c.padded)),
          sum(arena.take<C>(c.layer.out * c.padded)),
          part(arena.take<C>(c.layer.out * c.padded)),
          piece(arena.take<typename Bits<C>::Int>(c.padded)),
          scratch(arena.take<double>(c.setup.scratch_size())) {}
  };

  Curves(const Layer& l, const Operands& o) : Table(l, o, o.base_weight) {}

  void place(Arena& arena) {
    this->place_table(arena, true);
    this->workspaces = arena.take<char>(0);
  }

  void run() {
    const Memory memory(bytes_of(*this));
    Arena arena(memory.data());
    place(arena);
    const int64_t tiles = ceil_div(layer.batch, samples);
    parallel_for(this->edge_threads(), this->blocks(), [](void* c, int64_t i, int w) { self(c).prepare(i, w); }, this);
    parallel_for(this->threads, tiles, [](void* c, int64_t i, int w) { self(c).task(i, w); }, this);
  }

  static Curves& self(void* c) { return *static_cast<Curves*>(c); }

  void prepare(int64_t index, int worker) {
    const int64_t first = index * block, count = smaller(block, layer.in - first);
    this->compile(first, count, workspace_of(*this, worker).scratch);
    this->make_curves(first, count, false);
  }

  void task(int64_t index, int worker) {
    Workspace w = workspace_of(*this, worker);
    const int64_t first_sample = index * samples, n = smaller(samples, layer.batch - first_sample);
    for (int64_t i0 = 0; i0 < layer.in; i0 += block) {
      const int64_t count = smaller(block, layer.in - i0), at = first_sample * layer.in + i0;
      pack_columns(static_cast<const S*>(op.x) + at, layer.in, n, count, w.x, padded);
      if (op.v) pack_columns(static_cast<const S*>(op.v) + at, layer.in, n, count, w.v, padded);
      for (int64_t i = 0; i < count; i++) {
        locate(w, i0 + i, w.x + i * padded, n);
        // Each block is summed by itself first, because shorter sums have smaller rounding errors.
        const C* factor = op.v ? w.v + i * padded : nullptr;
        this->degree_of([&](auto k) { add<k>(w, i0 + i, factor, n, i0 == 0 ? w.sum : w.part, i == 0); });
      }
      for (int64_t j = 0; j < layer.out * padded && i0 > 0; j += lanes) {
        store(w.sum + j, load<V>(w.sum + j) + load<V>(w.part + j));
      }
    }
    for (int64_t o = 0; o < layer.out && op.bias; o++) {
      const C bias = Table::get(op.bias, o);
      for (int64_t b = o * padded; b < o * padded + n; b += lanes) store(w.sum + b, load<V>(w.sum + b) + bias);
    }
    unpack_columns(w.sum, padded, static_cast<S*>(op.y) + first_sample * layer.out, layer.out, n, layer.out);
  }

  // Finds u, the piece and the base function of the samples of one feature.
  void locate(Workspace& w, int64_t feature, const C* x, int64_t n) const {
    const Locator<C> locator(setup.basis.pieces, feature);
    const bool silu = setup.basis.base.kind == Base::silu;
    for (int64_t b = 0; b < n; b += lanes) {
      const V xs = load<V>(x + b);
      const auto found = locator(xs);
      store(w.u + b, setup.basis.pieces.poison_infinite ? found.u + (xs - xs) : found.u);
      store(w.piece + b, found.piece);
      if (setup.basis.has_base) store(w.base + b, setup.basis.base(xs, Sigmoid<C>(silu ? xs : V{})));
    }
  }

  // sums[o] (+)= v (curve_o(u) + base weight * base)
  template <int K>
  void add(const Workspace& w, int64_t feature, const C* v, int64_t n, C* sums, bool first) const {
    for (int64_t o = 0; o < layer.out; o++, sums += padded) {
      const C* table = this->curve(feature, o);
      V p[K + 1][2];
#pragma GCC unroll 6
      for (int q = 0; q <= K; q++) {
        p[q][0] = load<V>(table + q * columns);
        p[q][1] = load<V>(table + q * columns + lanes);
      }
      const C weight = setup.basis.has_base ? this->base_weights[feature * layer.out + o] : C(0);
      for (int64_t b = 0; b < n; b += lanes) {
        const V u = load<V>(w.u + b);
        const auto piece = load<IntVec<C>>(w.piece + b);
        V value = lookup(p[K][0], p[K][1], piece);
        if (K == 0) value += u * 0;
#pragma GCC unroll 6
        for (int q = K - 1; q >= 0; q--) value = value * u + lookup(p[q][0], p[q][1], piece);
        if (setup.basis.has_base) value += weight * load<V>(w.base + b);
        if (v) value *= load<V>(v + b);
        store(sums + b, first ? value : load<V>(sums + b) + value);
      }
    }
  }
};

}  // namespace
}  // namespace kan
