// The sums over the batch or over the outputs: coefficient gradients, input gradients and edge magnitudes.
#pragma once

#include "cpu/tiles/tiling.h"

namespace kan {
namespace {

enum class Mode { backward, magnitude, magnitude_backward };

// A task is a block of features times a chunk of the batch. It makes the plans of a stretch of samples once and uses
// them for all outputs and for both gradients, one tile of outputs after another. Usually the whole batch is one chunk.
// Only if blocks of features make too few tasks, the batch is cut into several, whose panels are added in order at the
// end.
template <class S>
struct Columns {
  using C = Compute<S>;

  Mode mode;
  bool want_x, want_coef;
  Setup<C> setup;
  const Operands& op;
  const Layer& layer;
  OutTiles<C> tiles;
  int64_t samples, block, blocks, chunk, chunks, panel_size;
  int64_t stretch;      // the number of samples whose plans are kept: whole tiles
  bool single_stretch;  // a task has one stretch, so it visits every tile of outputs once and keeps a single panel
  int threads;
  C *results, *bias_results;  // [chunk][block] panels; [chunk] sums of g
  char* workspaces;
  int64_t workspace_bytes;

  static bool coef(Mode m, const Operands& o) { return m == Mode::magnitude || o.grad_spline || o.grad_base; }
  static bool spline(const Operands& o) { return o.spline_weight || o.grad_spline; }
  static bool base(const Layer& l, const Operands& o) {
    return ((o.base_weight || o.grad_base) && l.base != Base::zero) || !spline(o);
  }
  // A call for the input gradient alone makes plans of order - 1 and takes their slopes, which have the wanted order.
  static Slopes wanted_slopes(Mode m, const Layer& l, const Operands& o) {
    if (m == Mode::magnitude_backward) return Slopes::rows;
    return o.grad_x && (coef(m, o) || l.order > 0) ? Slopes::differences : Slopes::none;
  }
  static Layer with_order(Mode m, Layer l, const Operands& o) {
    if (wanted_slopes(m, l, o) == Slopes::differences && !coef(m, o)) l.order--;
    return l;
  }

  struct Workspace {
    Setup<C> setup;  // with the tables of one block of features
    PlanSet<S> plans;
    C *g, *sums, *grad_x, *coefficients, *last, *result, *scale;
    double* scratch;

    Workspace(Arena& arena, const Columns& c)
        : setup(c.setup.with_tables(arena, c.block)),
          plans(arena, setup, c.block, c.stretch / c.samples, c.samples, c.op.v, c.slopes() != Slopes::none),
          g(arena.take<C>(c.samples * setup.kernel.wide.vectors * kLanes<C>)),
          sums(arena.take<C>(c.want_x ? c.stretch / c.samples * c.block * plans.padded * kLanes<C> : 0)),
          grad_x(arena.take<C>(c.want_x ? c.block * plans.padded : 0)),
          coefficients(arena.take<C>(c.needs_coefficients() ? c.kept_size() : 0)),
          last(arena.take<C>(c.slopes() == Slopes::differences ? c.block * c.tiles.padded() : 0)),
          result(arena.take<C>(c.want_coef && c.chunks == 1 ? c.kept_size() : 0)),
          scale(arena.take<C>(c.mode == Mode::magnitude_backward ? c.block * c.tiles.padded() : 0)),
          scratch(arena.take<double>(setup.scratch_size())) {}
  };

  Columns(Mode m, const Layer& l, const Operands& o)
      : mode(m),
        want_x(o.grad_x),
        want_coef(coef(m, o)),
        setup(with_order(m, l, o), spline(o), base(l, o), wanted_slopes(m, l, o)),
        op(o),
        layer(setup.layer),
        tiles(setup.kernel, 0, l.out) {
    samples = samples_per_tile(layer.batch, setup.kernel.wide.vectors * KAN_VECTOR_BYTES);
    threads = threads_for(layer, setup.rows);
    // A block covers whole cache lines of grad_x: threads that write to one line wait for each other.
    const int64_t per_feature = larger(1, Panel<C>::size(1, setup.rows, tiles.padded()) * sizeof(C));
    block = tuning::kCacheLine / sizeof(S);
    while (block > 1 && block * per_feature > tuning::kPanelBytes) block /= 2;
    blocks = larger(1, ceil_div(layer.in, block));
    // The chunks decide the order of additions, so they must not depend on the number of threads. The block may.
    chunks = larger(1, smaller(ceil_div(tuning::kWantedTasks, blocks), layer.batch / tuning::kSmallestChunk));
    chunk = round_up(larger(1, ceil_div(layer.batch, chunks)), samples);
    chunks = larger(1, ceil_div(layer.batch, chunk));
    const bool busy = blocks * chunks >= tuning::kBusyTasks * threads,
               fits = 4 * block * per_feature <= tuning::kPanelBytes;
    if (block < tuning::kLargestFeatureBlock && fits && busy) block *= 2;
    blocks = larger(1, ceil_div(layer.in, block));
    panel_size = Panel<C>::size(block, setup.rows, tiles.padded());
    const int64_t bytes = block * (2 * setup.basis.pieces.width + kLanes<C> + 3) * int64_t(sizeof(C));
    single_stretch = chunk * bytes <= tuning::kStretchBytes;
    stretch = single_stretch ? chunk : samples;
  }

  void place(Arena& arena) {
    results = arena.take<C>(want_coef && chunks > 1 ? blocks * chunks * panel_size : 0);
    bias_results = arena.take<C>(op.grad_bias ? chunks * tiles.padded() : 0);
    workspaces = arena.take<char>(0);
  }

  void run() {
    const Memory memory(bytes_of(*this));
    Arena arena(memory.data());
    place(arena);
    use_huge_pages(op.grad_spline, layer.out * layer.in * setup.rows * sizeof(S));
    parallel_for(threads, blocks * chunks, [](void* c, int64_t i, int w) { self(c).task(i, w); }, this);
    if (chunks > 1) {
      parallel_for(threads, blocks, [](void* c, int64_t i, int) { self(c).add_chunks(i); }, this);
    }
    if (op.grad_bias) finish_bias();
  }

  static Columns& self(void* c) { return *static_cast<Columns*>(c); }
  int64_t first_feature(int64_t b) const { return b * block; }
  int64_t features(int64_t b) const { return larger(0, smaller(block, layer.in - b * block)); }
  Slopes slopes() const { return setup.basis.pieces.slopes; }
  bool needs_coefficients() const { return want_x || mode != Mode::backward; }
  int64_t kept_size() const { return single_stretch ? Panel<C>::size(block, setup.rows, tiles.width(0)) : panel_size; }
  C* result(int64_t b, int64_t k) const { return results + (k * blocks + b) * panel_size; }

  void task(int64_t index, int worker) {
    Workspace w = workspace_of(*this, worker);
    const int64_t b = index % blocks, k = index / blocks, first = first_feature(b), count = features(b);
    w.setup.compile(static_cast<const C*>(op.grid) + first * setup.knots(), 0, count, w.scratch);
    if (mode == Mode::magnitude_backward) pack_scale(w, first, count);
    C* bias = op.grad_bias && b == 0 ? bias_results + k * tiles.padded() : nullptr;
    if (bias) std::memset(bias, 0, tiles.padded() * sizeof(C));

    const int64_t begin = k * chunk, end = smaller(layer.batch, begin + chunk);
    for (int64_t first_sample = begin; first_sample == begin || first_sample < end; first_sample += stretch) {
      const int64_t n = smaller(stretch, end - first_sample);
      w.plans.make(w.setup, op, first_sample, n, first, count);
      for (int64_t t = 0; t < tiles.count; t++) {
        const Panel<C> coefficients = kept(w.coefficients, t, count);
        const Panel<C> sums =
            chunks > 1 ? panel_at(result(b, k), tiles, t, count, setup.rows) : kept(w.result, t, count);
        if (first_sample == begin) {
          if (needs_coefficients()) {
            pack_panel<S>(coefficients, tiles, t, op.spline_weight, setup.basis.has_base ? op.base_weight : nullptr,
                          layer.in, first);
          }
          if (slopes() == Slopes::differences) {
            take_differences(w.setup.basis.pieces, coefficients, w.last + tiles.start(t) * count);
          }
          if (want_coef) sums.clear();
        }
        Prefetch next = first_sample == begin ? after(b, t, ceil_div(n, samples) * count) : Prefetch();
        for (int64_t s = 0; s < n; s += samples) {
          tile(w, coefficients, sums, bias, first_sample + s, smaller(samples, n - s), t, w.plans.tile(s), next);
        }
        if (chunks == 1 && first_sample + stretch >= end) finish(b, t, sums);
      }
      for (int64_t s = 0; s < n && want_x; s += samples) {
        finish_input(w, first_sample + s, smaller(samples, n - s), first, count, w.plans.tile(s));
      }
    }
  }

  // The panel of tile t in a workspace.
  Panel<C> kept(C* data, int64_t t, int64_t count) const {
    return single_stretch ? Panel<C>{data, count, setup.rows, tiles.width(t)}
                          : panel_at(data, tiles, t, count, setup.rows);
  }

  // The coefficients that this worker packs after those of tile t of block b.
  Prefetch after(int64_t b, int64_t t, int64_t calls) const {
    if (++t == tiles.count) {
      t = 0;
      b += threads;
    }
    if (b >= blocks || mode != Mode::backward || !want_x) return {};
    const int64_t kernels = 1 + want_coef;
    return prefetch_panel<S>(tiles, t, setup.rows, op.spline_weight, layer.in, first_feature(b), features(b),
                             calls * kernels * setup.basis.cells());
  }

  void pack_scale(Workspace& w, int64_t first, int64_t count) {
    const C mean = C(1) / C(larger(1, layer.batch));
    for (int64_t t = 0; t < tiles.count; t++) {
      C* scale = w.scale + tiles.start(t) * count;
      pack_transposed(static_cast<const S*>(op.g) + tiles.start(t) * layer.in + first, layer.in, tiles.valid(t), count,
                      scale, tiles.width(t));
      for (int64_t j = 0; j < count * tiles.width(t); j++) scale[j] *= mean;
    }
  }

  // Adds tile t of the outputs for n samples; `first_plan` is the number of their first plan.
  void tile(Workspace& w, const Panel<C>& coefficients, const Panel<C>& sums, C* bias, int64_t first_sample, int64_t n,
            int64_t t, int64_t first_plan, Prefetch& next) const {
    const int cells = setup.basis.cells();
    const TileOps<C>& ops = tiles.ops(t);
    const C* g = nullptr;
    if (mode == Mode::backward) {
      g = pack_g(w, first_sample, n, t);
      if (bias) add_rows(g, n, tiles.width(t), bias + tiles.start(t));
    }
    const C* last = w.last + tiles.start(t) * sums.features;
    for (int64_t i = 0; i < sums.features; i++) {
      Plan<C> plan = w.plans[first_plan + i];
      const C *c = coefficients.spline(i), *c_base = coefficients.base(i);
      C *d = sums.spline(i), *d_base = sums.base(i), *gx = w.sums + (first_plan + i) * w.plans.padded * kLanes<C>;
      if (mode == Mode::magnitude) {
        ops.magnitude(plan, cells, c, c_base, d_base);
      } else if (mode == Mode::magnitude_backward) {
        const C* scale = w.scale + tiles.start(t) * sums.features + i * tiles.width(t);
        ops.magnitude_backward(plan, cells, c, c_base, scale, gx, t == 0, d, d_base);
      } else {
        if (want_coef) ops.grad_coef(plan, cells, g, d, d_base, next);
        if (!plan.slope) {
          plan.slope = plan.value;
          plan.base_slope = plan.base;
        }
        if (want_x) {
          const Pieces<C>& pieces = w.setup.basis.pieces;
          Differences<C> differences{};
          if (slopes() == Slopes::differences) {
            differences = {pieces.order + 1, last + i * tiles.width(t), pieces.permutation_of(i)};
          }
          ops.grad_input(plan, cells, c, differences, c_base, g, gx, t == 0, next);
        }
      }
    }
  }

  // Writes grad_x of n samples from the sums that their plans have gathered.
  void finish_input(Workspace& w, int64_t first_sample, int64_t n, int64_t first, int64_t count,
                    int64_t first_plan) const {
    const int64_t padded = w.plans.padded;
    for (int64_t i = 0; i < count; i++) {
      C* grad_x = w.grad_x + i * padded;
      if (tiles.count > 0) add_lanes(w.sums + (first_plan + i) * padded * kLanes<C>, n, grad_x);
      if (tiles.count == 0) std::memset(grad_x, 0, n * sizeof(C));
      if (slopes() == Slopes::none && setup.basis.has_base && op.base_weight) {
        sum_at_infinity(w.plans[first_plan + i], first_sample, n, first + i, grad_x);
      }
    }
    unpack_transposed(w.grad_x, padded, static_cast<S*>(op.grad_x) + first_sample * layer.in + first, layer.in, n,
                      count);
  }

  // Replaces grad_x where the base function is infinite by infinity times one sum over the outputs. Lane by lane,
  // outputs of opposite signs would give inf - inf, and the outputs that fill the last vector inf * 0. Where the
  // splines continue linearly grad_x is NaN anyway.
  void sum_at_infinity(const Plan<C>& plan, int64_t first_sample, int64_t n, int64_t feature, C* grad_x) const {
    if (setup.basis.has_spline && setup.basis.pieces.poison_infinite) return;
    for (int64_t q = 0; q < n; q++) {
      const C base = plan.base[q];
      if (base - base == 0 || base != base) continue;
      const int64_t b = plan.offset[q] / KAN_VECTOR_BYTES;
      C sum = 0;
      for (int64_t o = 0; o < layer.out; o++) {
        const C g = fetch(static_cast<const S*>(op.g) + (first_sample + b) * layer.out + o, 1)[0];
        sum += g * fetch(static_cast<const S*>(op.base_weight) + o * layer.in + feature, 1)[0];
      }
      grad_x[b] = base * sum;
    }
  }

  // The tile of g as rows of whole vectors: the tensor itself if its rows are such, else a copy.
  const C* pack_g(Workspace& w, int64_t first_sample, int64_t n, int64_t t) const {
    const S* g = static_cast<const S*>(op.g) + first_sample * layer.out + tiles.start(t);
    if (sizeof(S) == sizeof(C) && tiles.width(t) == layer.out) return reinterpret_cast<const C*>(g);
    pack_rows(g, layer.out, n, tiles.valid(t), w.g, tiles.width(t));
    return w.g;
  }

  // sums[] += the n rows of g
  static void add_rows(const C* g, int64_t n, int64_t width, C* sums) {
    for (int64_t z = 0; z < width; z += kLanes<C>) {
      Vec<C> sum = {};
      for (int64_t b0 = 0; b0 < n; b0 += kSumBlock) {
        Vec<C> part = {};
        for (int64_t b = b0; b < smaller(b0 + kSumBlock, n); b++) part += load<Vec<C>>(g + b * width + z);
        sum += part;
      }
      store(sums + z, load<Vec<C>>(sums + z) + sum);
    }
  }

  // target[b] = the sum of the lanes of sums[b]. Each step adds neighbouring lanes of two vectors, which leaves one.
  static void add_lanes(const C* sums, int64_t n, C* target) {
    constexpr int lanes = kLanes<C>;
    using Sequence = std::make_integer_sequence<int, lanes>;
    for (int64_t b = 0; b < n; b += lanes) {
      Vec<C> v[lanes];
#pragma GCC unroll 16
      for (int k = 0; k < lanes; k++) v[k] = load<Vec<C>>(sums + (b + k) * lanes);
      add_pairs<lanes / 2>(v, Sequence{});
      store(target + b, v[0]);
    }
  }
  template <int half, class Sequence>
  static void add_pairs(Vec<C>* v, Sequence lanes) {
#pragma GCC unroll 8
    for (int k = 0; k < half; k++)
      v[k] = join<half, 0>(v[k], v[k + half], lanes) + join<half, half>(v[k], v[k + half], lanes);
    if constexpr (half > 1) add_pairs<half / 2>(v, lanes);
  }

  void add_chunks(int64_t b) {
    if (!want_coef) return;
    C* sum = result(b, 0);
    for (int64_t k = 1; k < chunks; k++) {
      const C* more = result(b, k);
      for (int64_t j = 0; j < panel_size; j += kLanes<C>)
        store(sum + j, load<Vec<C>>(sum + j) + load<Vec<C>>(more + j));
    }
    for (int64_t t = 0; t < tiles.count; t++) finish(b, t, panel_at(sum, tiles, t, features(b), setup.rows));
  }

  // Writes the sums of a block of features and of tile t to the result.
  void finish(int64_t b, int64_t t, const Panel<C>& sums) const {
    if (!want_coef) return;
    if (mode == Mode::magnitude) {
      const C mean = C(1) / C(larger(1, layer.batch));
      unpack_transposed(sums.base(0), sums.width, static_cast<S*>(op.y) + tiles.start(t) * layer.in + first_feature(b),
                        layer.in, tiles.valid(t), sums.features, false, mean);
    } else {
      unpack_panel<S>(sums, tiles, t, op.grad_spline, op.grad_base, layer.in, first_feature(b));
    }
  }

  void finish_bias() {
    for (int64_t o = 0; o < layer.out; o += kLanes<C>) {
      Vec<C> sum = load<Vec<C>>(bias_results + o);
      for (int64_t k = 1; k < chunks; k++) sum += load<Vec<C>>(bias_results + k * tiles.padded() + o);
      put(static_cast<S*>(op.grad_bias) + o, sum, layer.out - o);
    }
  }
};

}  // namespace
}  // namespace kan
