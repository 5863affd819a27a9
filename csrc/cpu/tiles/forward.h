// The forward contraction, a sum over inputs and rows. Its tasks are blocks of samples times blocks of outputs.
#pragma once

#include "cpu/tiles/tiling.h"

namespace kan {
namespace {

// How samples and outputs are cut into tasks. A task plans its samples and packs the coefficients of its outputs. So
// more blocks of outputs mean more plans of the same samples, and more blocks of samples more packing of coefficients.
struct Cut {
  int64_t samples = 1, tiles = 1;  // per task

  // Chooses the cut that takes the least time, by the costs of tuning.h in multiply-adds of vectors.
  template <class C>
  Cut(const Layer& layer, const OutTiles<C>& outs, int64_t active_rows, int64_t rows, int64_t tile_samples,
      int threads) {
    constexpr int64_t most_sums = tuning::kForwardSumBytes / sizeof(C), most_samples = tuning::kMostTaskSamples;
    const int64_t width = outs.width(0), vectors = width / kLanes<C>;
    double least = 0;
    for (int64_t t = outs.count; t > 0; t = t > 1 ? ceil_div(t, 2) : 0) {
      if (t > 1 && tile_samples * t * width > most_sums) continue;
      for (int64_t n = tile_samples; n == tile_samples || (n * t * width <= most_sums && n <= most_samples); n *= 2) {
        const int64_t tasks = ceil_div(layer.batch, n) * ceil_div(outs.count, t);
        const double task =
            n * (tuning::kPlanSample + t * vectors * active_rows) + tuning::kPackRow * t * vectors * rows;
        // The last tasks end at different times, so some threads wait for others.
        const double time = (ceil_div(tasks, threads) + (threads > 1 ? tuning::kIdle : 0)) * task;
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

  Setup<C> setup;
  const Operands& op;
  const Layer& layer;
  OutTiles<C> all_tiles;
  int64_t tile_samples;
  int threads;
  Cut cut;
  char* workspaces;
  int64_t workspace_bytes;

  // The memory of one worker: the plans of one block of features, their coefficients for one tile of outputs, and the
  // sums of all outputs of a task.
  struct Workspace {
    Setup<C> setup;
    PlanSet<S> plans;
    C *panel, *sum, *part;
    double* scratch;

    Workspace(Arena& arena, const Forward& f)
        : setup(f.setup.with_tables(arena, tuning::kFeatureBlock)),
          plans(arena, setup, tuning::kFeatureBlock, f.cut.samples / f.tile_samples, f.tile_samples, f.op.v, false),
          panel(arena.take<C>(Panel<C>::size(tuning::kFeatureBlock, setup.rows, f.all_tiles.width(0)))),
          sum(arena.take<C>(f.cut.samples * f.block_width())),
          part(arena.take<C>(f.tile_samples * f.all_tiles.width(0))),
          scratch(arena.take<double>(setup.scratch_size())) {}
  };

  Forward(const Layer& l, const Operands& o)
      : setup(l, o.spline_weight, (o.base_weight && l.base != Base::zero) || !o.spline_weight),
        op(o),
        layer(setup.layer),
        all_tiles(setup.kernel, 0, l.out),
        tile_samples(samples_per_tile(l.batch, setup.kernel.wide.vectors * KAN_VECTOR_BYTES)),
        threads(threads_for(layer, setup.rows)),
        cut(layer, all_tiles, setup.active_rows(), setup.rows + 1, tile_samples, threads) {}

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
    const int64_t first_sample = index / out_blocks() * cut.samples,
                  samples = smaller(cut.samples, layer.batch - first_sample);
    const int64_t first_out = index % out_blocks() * block_width();
    const OutTiles<C> tiles(setup.kernel, first_out, smaller(block_width(), layer.out - first_out));
    const int64_t padded = tiles.padded();

    if (layer.in == 0) std::memset(w.sum, 0, padded * samples * sizeof(C));
    for (int64_t i0 = 0; i0 < layer.in; i0 += tuning::kFeatureBlock) {
      const int64_t features = smaller(tuning::kFeatureBlock, layer.in - i0);
      w.setup.compile(static_cast<const C*>(op.grid) + i0 * setup.knots(), 0, features, w.scratch, i0 > 0);
      w.plans.make(w.setup, op, first_sample, samples, i0, features);
      for (int64_t t = 0; t < tiles.count; t++) {
        const Panel<C> panel{w.panel, features, setup.rows, tiles.width(t)};
        pack_panel<S>(panel, tiles, t, op.spline_weight, setup.basis.has_base ? op.base_weight : nullptr, layer.in, i0);
        Prefetch next = after(tiles, t, i0, ceil_div(samples, tile_samples) * features);
        for (int64_t b = 0; b < samples; b += tile_samples) {
          const int64_t n = smaller(tile_samples, samples - b);
          add_features(w, panel, tiles.ops(t), w.plans.tile(b), i0 > 0, w.sum + b * padded + tiles.start(t) * n, next);
        }
      }
    }
    for (int64_t b = 0; b < samples; b += tile_samples) {
      finish(w.sum + b * padded, tiles, first_sample + b, smaller(tile_samples, samples - b));
    }
  }

  // The coefficients that are packed after those of tile t, for the features from `first` on.
  Prefetch after(const OutTiles<C>& tiles, int64_t t, int64_t first, int64_t calls) const {
    if (++t == tiles.count) {
      t = 0;
      first += tuning::kFeatureBlock;
    }
    if (first >= layer.in) return {};
    return prefetch_panel<S>(tiles, t, setup.rows, op.spline_weight, layer.in, first,
                             smaller(tuning::kFeatureBlock, layer.in - first), calls * setup.basis.cells());
  }

  // Sums over a block of features, for the samples whose first plan has number `first_plan`. more: adds to the sums of
  // the blocks before. Each block is summed by itself first, because shorter sums have smaller rounding errors.
  void add_features(Workspace& w, const Panel<C>& panel, const TileOps<C>& ops, int64_t first_plan, bool more, C* sum,
                    Prefetch& next) const {
    for (int64_t i = 0; i < panel.features; i++) {
      const bool last = i == panel.features - 1;
      ops.forward(w.plans[first_plan + i], setup.basis.cells(), panel.spline(i), panel.base(i),
                  i > 0 ? w.part : nullptr, last && more ? sum : nullptr, last ? sum : w.part, next);
    }
  }

  // y = sums + bias for n samples
  void finish(const C* sums, const OutTiles<C>& tiles, int64_t first_sample, int64_t n) const {
    const S* bias = static_cast<const S*>(op.bias);
    for (int64_t t = 0; t < tiles.count; t++) {
      const C* sum = sums + tiles.start(t) * n;
      const int64_t o = tiles.first + tiles.start(t), valid = tiles.valid(t), width = tiles.width(t);
      for (int64_t b = 0; b < n; b++) {
        S* y = static_cast<S*>(op.y) + (first_sample + b) * layer.out + o;
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
