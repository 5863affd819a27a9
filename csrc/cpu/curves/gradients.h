// The gradients of layers with few outputs, all in one pass over the samples.
#pragma once

#include "cpu/curves/table.h"

namespace kan {
namespace {

template <class T, int N>
inline T sum_of_lanes(typename Vector<T, N>::Type v) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    typename Vector<T, N / 2>::Type half[2];
    std::memcpy(half, &v, sizeof v);
    return sum_of_lanes<T, N / 2>(half[0] + half[1]);
  }
}

// The coefficient gradient of an edge is sum_q b_qr S_q, where S_q = sum_b g v u^q over the samples b of a piece. So
// the sums S_q come first, with the samples in the lanes and masks instead of sorting, and become rows at the end.
template <class S>
struct CurveGradients : CurveTable<S> {
  using Table = CurveTable<S>;
  using Table::block, Table::columns, Table::lanes, Table::layer, Table::op, Table::padded, Table::setup,
      Table::samples;
  using typename Table::C;
  using typename Table::V;
  using Index = typename Bits<C>::Int;

  bool want_x, want_coef, joint;
  int64_t chunk, chunks, feature_numbers;
  C *sums, *base_sums, *bias_sums;  // [chunk][feature][output][power][piece]; [chunk][feature][output]; [chunk][output]

  // Whether this form computes all gradients, and in less time than tiles do.
  static bool suit(const Layer& l, const Operands& o) {
    if (!Table::fits(l) || (o.grad_x && !o.spline_weight) || (o.grad_base && !o.grad_spline)) return false;
    const bool faster = o.grad_spline ? l.out * (2 * l.grid_size + 5) <= tuning::kMostPowerSums : o.grad_x != nullptr;
    return faster && Table::worth_making(l);
  }

  // One tile of samples: x, v and grad_x of a block of features, g, and for one feature the numbers that `locate`
  // finds.
  struct Workspace {
    C *x, *v, *g, *grad_x, *u, *square, *weight, *base, *slope;
    Index* piece;
    double* scratch;
    uint32_t present;  // which pieces have samples

    Workspace(Arena& arena, const CurveGradients& c)
        : x(arena.take<C>(block * c.padded)),
          v(arena.take<C>(c.op.v ? block * c.padded : 0)),
          g(arena.take<C>(c.layer.out * c.padded)),
          grad_x(arena.take<C>(c.want_x ? block * c.padded : 0)),
          u(arena.take<C>(c.padded)),
          square(arena.take<C>(c.padded)),
          weight(arena.take<C>(c.padded)),
          base(arena.take<C>(c.padded)),
          slope(arena.take<C>(c.padded)),
          piece(arena.take<Index>(c.padded)),
          scratch(arena.take<double>(c.setup.scratch_size())) {}
  };

  CurveGradients(const Layer& l, const Operands& o)
      : Table(l, o, o.base_weight || o.grad_base),
        want_x(o.grad_x),
        want_coef(o.grad_spline),
        joint(want_x && want_coef) {
    chunks = larger(1, smaller(tuning::kWantedTasks, layer.batch / tuning::kSmallestChunk));
    chunk = want_coef || o.grad_bias ? round_up(ceil_div(layer.batch, chunks), samples) : samples;
    chunks = ceil_div(layer.batch, chunk);
    feature_numbers = this->edge_numbers();
  }

  void place(Arena& arena) {
    this->place_table(arena, want_x);
    sums = arena.take<C>(want_coef ? chunks * layer.in * feature_numbers : 0);
    base_sums = arena.take<C>(want_coef ? chunks * layer.in * layer.out : 0);
    bias_sums = arena.take<C>(op.grad_bias ? chunks * layer.out : 0);
    this->workspaces = arena.take<char>(0);
  }

  void run() {
    const Memory memory(bytes_of(*this));
    Arena arena(memory.data());
    place(arena);
    const int64_t blocks = this->blocks();
    parallel_for(this->edge_threads(), blocks, [](void* c, int64_t i, int w) { self(c).prepare(i, w); }, this);
    parallel_for(this->threads, chunks * blocks, [](void* c, int64_t i, int w) { self(c).task(i, w); }, this);
    if (want_coef) {
      parallel_for(this->edge_threads(), blocks, [](void* c, int64_t i, int) { self(c).finish(i); }, this);
    }
    for (int64_t o = 0; o < layer.out && op.grad_bias; o++) {
      C sum = 0;
      for (int64_t k = 0; k < chunks; k++) sum += bias_sums[k * layer.out + o];
      put(static_cast<S*>(op.grad_bias) + o, V{} + sum, 1);
    }
  }

  static CurveGradients& self(void* c) { return *static_cast<CurveGradients*>(c); }
  C* sums_of(int64_t c, int64_t feature) const { return sums + (c * layer.in + feature) * feature_numbers; }
  C* base_sums_of(int64_t c, int64_t feature) const { return base_sums + (c * layer.in + feature) * layer.out; }

  void prepare(int64_t index, int worker) {
    const int64_t first = index * block, count = smaller(block, layer.in - first);
    this->compile(first, count, workspace_of(*this, worker).scratch);
    if (want_x) this->make_curves(first, count, joint);
  }

  // A chunk of the batch and a block of features.
  void task(int64_t index, int worker) {
    Workspace w = workspace_of(*this, worker);
    const int64_t c = index / this->blocks(), first = index % this->blocks() * block;
    const int64_t count = smaller(block, layer.in - first), end = smaller((c + 1) * chunk, layer.batch);
    if (want_coef) {
      std::memset(sums_of(c, first), 0, count * feature_numbers * sizeof(C));
      std::memset(base_sums_of(c, first), 0, count * layer.out * sizeof(C));
    }
    C* bias = op.grad_bias && first == 0 ? bias_sums + c * layer.out : nullptr;
    if (bias) std::memset(bias, 0, layer.out * sizeof(C));
    for (int64_t first_sample = c * chunk; first_sample < end; first_sample += samples) {
      const int64_t n = smaller(samples, end - first_sample);
      pack_columns(static_cast<const S*>(op.g) + first_sample * layer.out, layer.out, n, layer.out, w.g, padded);
      if (bias) add_outputs(w.g, n, bias);
      tile(w, c, first_sample, n, first, count);
    }
  }

  // bias[o] += sum of g
  void add_outputs(const C* g, int64_t n, C* bias) const {
    for (int64_t o = 0; o < layer.out; o++, g += padded) {
      V sum = {};
      for (int64_t b = 0; b < n; b += lanes) sum += load<V>(g + b);
      bias[o] += sum_of_lanes<C, lanes>(sum);
    }
  }

  void tile(Workspace& w, int64_t c, int64_t first_sample, int64_t n, int64_t first, int64_t count) {
    const int64_t at = first_sample * layer.in + first;
    pack_columns(static_cast<const S*>(op.x) + at, layer.in, n, count, w.x, padded);
    if (op.v) pack_columns(static_cast<const S*>(op.v) + at, layer.in, n, count, w.v, padded);
    for (int64_t i = 0; i < count; i++) {
      const int64_t feature = first + i;
      locate(w, feature, w.x + i * padded, op.v ? w.v + i * padded : nullptr, n);
      this->degree_of([&](auto k) {
        if (want_x) grad_input<k>(w, feature, n, w.grad_x + i * padded);
        for (int64_t o = 0; o < layer.out && want_coef; o++) {
          C* sum = sums_of(c, feature) + o * (layer.degree + 1) * columns;
          add_sums<k>(w, w.g + o * padded, n, sum, base_sums_of(c, feature) + o);
        }
      });
    }
    if (want_x) unpack_columns(w.grad_x, padded, static_cast<S*>(op.grad_x) + at, layer.in, n, count);
  }

  // Finds for the samples of one feature: u and its square, the piece, the weight in the sums, the base function times
  // v and the slope of the base function.
  void locate(Workspace& w, int64_t feature, const C* x, const C* v, int64_t n) const {
    const Basis<C>& basis = setup.basis;
    const bool poison = basis.pieces.poison_infinite, silu = basis.base.kind == Base::silu;
    const Locator<C> locator(basis.pieces, feature);
    IntVec<C> present = {};
    for (int64_t b = 0; b < n; b += lanes) {
      const V xs = load<V>(x + b), poisoned = xs - xs;
      const auto [piece, u] = locator(xs);
      const Sigmoid<C> sigmoid(silu ? xs : V{});
      const V value = basis.has_base ? basis.base(xs, sigmoid) : V{};
      store(w.u + b, poison && !joint ? u + poisoned : u);
      store(w.piece + b, piece);
      if (basis.has_base) store(w.slope + b, joint ? basis.base_slope(xs, sigmoid) : value);
      if (!want_coef) continue;
      V weight = v ? load<V>(v + b) : splat<V>(C(1)), square = u * u;
      store(w.base + b, value * weight);
      if (poison) {  // far outside of the range unused powers of u would overflow
        square = ((piece == 0) | (piece == basis.pieces.count - 1)) ? u - u : square;
        weight += poisoned;
      }
      store(w.square + b, square);
      store(w.weight + b, weight);
      present |= (IntVec<C>{} + 1) << piece;
    }
    w.present = 0;
    for (int lane = 0; lane < lanes; lane++) w.present |= uint32_t(present[lane]);
  }

  // gx = sum over the outputs of g (curve_o(u) + base weight * slope of base)
  template <int K>
  void grad_input(const Workspace& w, int64_t feature, int64_t n, C* gx) const {
    const C* weights = this->base_weights + feature * layer.out;
    for (int64_t b = 0; b < n; b += lanes) {
      const V u = load<V>(w.u + b);
      const auto piece = load<IntVec<C>>(w.piece + b);
      V sum[K + 1] = {}, base_sum = {};
      const C* table = this->curve(feature, 0);
      for (int64_t o = 0; o < layer.out; o++, table += (K + 1) * columns) {
        const V g = load<V>(w.g + o * padded + b);
#pragma GCC unroll 6
        for (int q = 0; q <= K; q++) {
          sum[q] += g * lookup(load<V>(table + q * columns), load<V>(table + q * columns + lanes), piece);
        }
        if (setup.basis.has_base) base_sum += g * weights[o];
      }
      V value = sum[K];
      if (K == 0) value += u * 0;
#pragma GCC unroll 6
      for (int q = K - 1; q >= 0; q--) value = value * u + sum[q];
      if (setup.basis.has_base) value += base_sum * load<V>(w.slope + b);
      store(gx + b, value);
    }
  }

  // sums[q][piece] += sum of g weight u^q and base_sum += sum of g base, for as many pieces at a time as fit in the
  // registers.
  template <int K>
  void add_sums(const Workspace& w, const C* g, int64_t n, C* sums, C* base_sum) const {
    constexpr int slots = tuning::kSumRegisters / (K + 1);
    bool with_base = setup.basis.has_base;
    for (uint32_t left = w.present; left;) {
      int pieces[slots], count = 0;
      for (; left && count < slots; left &= left - 1) pieces[count++] = __builtin_ctz(left);
      IntVec<C> ids[slots];
#pragma GCC unroll 20
      for (int j = 0; j < slots; j++) ids[j] = IntVec<C>{} + (j < count ? pieces[j] : -1);
      V sum[slots][K + 1] = {}, base = {};
      for (int64_t b = 0; b < n; b += lanes) {
        const V gs = load<V>(g + b), u = load<V>(w.u + b), square = load<V>(w.square + b);
        const auto piece = load<IntVec<C>>(w.piece + b);
        V power[K + 2] = {gs * load<V>(w.weight + b)};
        power[1] = power[0] * u;
#pragma GCC unroll 6
        for (int q = 2; q <= K; q++) power[q] = power[q - 2] * square;
#pragma GCC unroll 20
        for (int j = 0; j < slots; j++)
#pragma GCC unroll 6
          for (int q = 0; q <= K; q++) sum[j][q] = add_where_equal(sum[j][q], piece, ids[j], power[q]);
        if (with_base) base += gs * load<V>(w.base + b);
      }
#pragma GCC unroll 20
      for (int j = 0; j < slots; j++) {
        if (j < count) {
#pragma GCC unroll 6
          for (int q = 0; q <= K; q++) sums[q * columns + pieces[j]] += sum_of_lanes<C, lanes>(sum[j][q]);
        }
      }
      if (with_base) *base_sum += sum_of_lanes<C, lanes>(base);
      with_base = false;
    }
  }

  // Adds the sums of all chunks and turns them into the rows of a block of features.
  void finish(int64_t index) {
    const int64_t first = index * block, count = smaller(block, layer.in - first), rows = setup.rows;
    for (int64_t i = first; i < first + count; i++) {
      for (int64_t k = 1; k < chunks; k++) {
        for (int64_t j = 0; j < feature_numbers; j += lanes) {
          store(sums_of(0, i) + j, load<V>(sums_of(0, i) + j) + load<V>(sums_of(k, i) + j));
        }
        for (int64_t o = 0; o < layer.out; o++) base_sums_of(0, i)[o] += base_sums_of(k, i)[o];
      }
      for (int64_t o = 0; o < layer.out; o++) {
        const int64_t edge = o * layer.in + i;
        write_rows(sums_of(0, i) + o * (layer.degree + 1) * columns, i, static_cast<S*>(op.grad_spline) + edge * rows);
        if (op.grad_base) {
          const C sum = setup.basis.has_base ? base_sums_of(0, i)[o] : C(0);
          put(static_cast<S*>(op.grad_base) + edge, V{} + sum, 1);
        }
      }
    }
  }

  void write_rows(const C* edge_sums, int64_t feature, S* target) const {
    C row[columns] = {}, part[columns];
    for (int r = 0; r <= layer.degree; r++) {
      for (int half = 0; half < columns; half += lanes) {
        V sum = {};
        for (int q = 0; q <= layer.degree; q++) {
          sum += load<V>(edge_sums + q * columns + half) * load<V>(this->coefficient(feature, q, r) + half);
        }
        store(part + half, sum);
      }
      for (int p = 0; p < setup.basis.pieces.count; p++) row[this->cell_of(p) + r] += part[p];
    }
    for (int64_t j = 0; j < setup.rows; j += lanes) put(target + j, load<V>(row + j), setup.rows - j);
  }
};

}  // namespace
}  // namespace kan
