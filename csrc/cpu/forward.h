// y = bias + sum over inputs and rows: tasks are blocks of samples times blocks of outputs.
#pragma once

#include "tiling.h"

namespace kan {
namespace {

// How the samples and the outputs are cut into tasks. A task plans its samples and packs the coefficients of its
// outputs, so samples are planned once for every block of outputs, coefficients packed once for every block of samples.
struct Cut {
  int64_t samples, tiles;  // per task

  // The cut that takes the least time; see docs/cpu_kernels.md for the costs, in multiply-adds of vectors.
  template <class C>
  Cut(const Layer& layer, const OutTiles<C>& outs, int64_t active_rows, int64_t rows, int64_t tile_samples,
      int threads) {
    constexpr double plan_sample = 18, pack_row = 12;
    constexpr int64_t most_sums = (1 << 19) / sizeof(C), most_packed = (1 << 19) / sizeof(C);
    const int64_t width = outs.width(0), vectors = width / kLanes<C>;
    double least = 0;
    for (int64_t t = outs.count; t > 0; t = t > 1 ? ceil_div(t, 2) : 0) {
      if (t > 1 && t * width * kFeatureBlock * rows > most_packed) continue;
      for (int64_t n = tile_samples; n == tile_samples || n * t * width <= most_sums; n *= 2) {
        const double tasks = double(ceil_div(layer.batch, n)) * ceil_div(outs.count, t);
        const double task = n * (plan_sample + t * vectors * active_rows) + pack_row * t * vectors * rows;
        // The last tasks end at different times.
        const double time = (ceil_div(tasks, threads) + (threads > 1 ? 0.25 : 0)) * task;
        if (least == 0 || time < least) {
          least = time;
          samples = n;
          tiles = t;
        }
        if (n >= layer.batch) break;
      }
    }
  }
};

template <class S>
struct Forward {
  using C = Compute<S>;

  Problem<C> problem;
  const Operands& op;
  const Layer& layer;
  OutTiles<C> all_tiles;
  int64_t tile_samples;
  int threads;
  Cut cut;
  char* workspaces;
  int64_t workspace_bytes;

  // What one worker needs for one task: plans and coefficients of one block of features, sums of all of its outputs.
  struct Workspace {
    Problem<C> problem;
    PlanSet<S> plans;
    C *panel, *sum, *part;
    double* scratch;

    Workspace(Arena& arena, const Forward& f)
        : problem(f.problem.with_tables(arena, kFeatureBlock)),
          plans(arena, problem, kFeatureBlock, f.tile_samples, f.op.v, false),
          panel(arena.take<C>(Panel<C>::size(kFeatureBlock, problem.rows, f.block_width()))),
          sum(arena.take<C>(f.cut.samples * f.block_width())),
          part(arena.take<C>(f.tile_samples * f.all_tiles.width(0))),
          scratch(arena.take<double>(problem.scratch_size())) {}
  };

  Forward(const Layer& l, const Operands& o)
      : problem(l, o.spline_weight, (o.base_weight && l.base != Base::zero) || !o.spline_weight, false, false),
        op(o),
        layer(problem.layer),
        all_tiles(problem.kernel, 0, l.out),
        tile_samples(samples_per_tile(l.batch, problem.kernel.wide.vectors * KAN_VECTOR_BYTES)),
        threads(threads_for(layer, problem.rows)),
        cut(layer, all_tiles, problem.active_rows(), problem.rows + 1, tile_samples, threads) {}

  int64_t block_width() const { return cut.tiles * all_tiles.width(0); }
  int64_t out_blocks() const { return ceil_div(all_tiles.count, cut.tiles); }
  void place(Arena& arena) { workspaces = arena.take<char>(0); }

  void run() {
    if (layer.batch == 0 || layer.out == 0) return;
    const Memory memory(bytes_of(*this));
    Arena arena(memory.data());
    place(arena);
    parallel_for(
        threads, ceil_div(layer.batch, cut.samples) * out_blocks(),
        [](void* f, int64_t i, int w) { static_cast<Forward*>(f)->task(i, w); }, this);
  }

  void task(int64_t index, int worker) {
    Workspace w = workspace_of(*this, worker);
    const int64_t row = index / out_blocks() * cut.samples, samples = smaller(cut.samples, layer.batch - row);
    const int64_t first_out = index % out_blocks() * block_width();
    const OutTiles<C> tiles(problem.kernel, first_out, smaller(block_width(), layer.out - first_out));
    const int64_t padded = tiles.padded();

    if (layer.in == 0) std::memset(w.sum, 0, padded * samples * sizeof(C));
    for (int64_t i0 = 0; i0 < layer.in; i0 += kFeatureBlock) {
      const int64_t features = smaller(kFeatureBlock, layer.in - i0);
      const Panel<C> panel{w.panel, features, problem.rows};
      w.problem.compile(static_cast<const C*>(op.grid) + i0 * problem.knots(), 0, features, w.scratch);
      pack(panel, tiles, i0);
      Prefetch<S> next(tiles, op, layer.in, problem.rows, i0 + kFeatureBlock,
                       ceil_div(samples, tile_samples) * tiles.count * features);
      for (int64_t b = 0; b < samples; b += tile_samples) {
        add_features(w, panel, tiles, row + b, smaller(tile_samples, samples - b), i0, w.sum + b * padded, next);
      }
    }
    for (int64_t b = 0; b < samples; b += tile_samples) {
      finish(w.sum + b * padded, tiles, row + b, smaller(tile_samples, samples - b));
    }
  }

  void pack(const Panel<C>& panel, const OutTiles<C>& tiles, int64_t first) const {
    for (int64_t t = 0; t < tiles.count; t++) {
      pack_tile<S>(panel, tiles, t, static_cast<const S*>(op.spline_weight),
                   problem.basis.has_base ? static_cast<const S*>(op.base_weight) : nullptr, layer.in, first, 0,
                   panel.features);
    }
  }

  // The sums over a block of features for n samples, added to those of the blocks before. Sums of blocks, then their
  // sum: shorter sums have smaller rounding errors.
  void add_features(Workspace& w, const Panel<C>& panel, const OutTiles<C>& tiles, int64_t row, int64_t n, int64_t i0,
                    C* sums, Prefetch<S>& next) const {
    const int64_t at = row * layer.in + i0, features = panel.features;
    const S* v = static_cast<const S*>(op.v);
    w.plans.make(w.problem, static_cast<const S*>(op.x) + at, v ? v + at : nullptr, n, features, 0);
    for (int64_t t = 0; t < tiles.count; t++) {
      C* sum = sums + tiles.start(t) * n;
      for (int64_t i = 0; i < features; i++) {
        const bool last = i == features - 1;
        tiles.ops(t).forward(w.plans[i], problem.basis.cells(), panel.spline(tiles, t, i), panel.base(tiles, t, i),
                             i > 0 ? w.part : nullptr, last && i0 > 0 ? sum : nullptr, last ? sum : w.part);
        next.step();
      }
    }
  }

  // y = sums + bias for n samples
  void finish(const C* sums, const OutTiles<C>& tiles, int64_t row, int64_t n) const {
    const S* bias = static_cast<const S*>(op.bias);
    for (int64_t t = 0; t < tiles.count; t++) {
      const C* sum = sums + tiles.start(t) * n;
      const int64_t o = tiles.first + tiles.start(t), valid = tiles.valid(t), width = tiles.width(t);
      for (int64_t b = 0; b < n; b++) {
        S* y = static_cast<S*>(op.y) + (row + b) * layer.out + o;
        for (int64_t z = 0; z < valid; z += kLanes<C>) {
          const Vec<C> total = load<Vec<C>>(sum + b * width + z);
          put(y + z, bias ? total + fetch(bias + o + z, valid - z) : total, valid - z);
        }
      }
    }
  }
};

}  // namespace
}  // namespace kan
