// y = bias + sum over inputs and rows: tasks are tiles of samples times blocks of outputs.
#pragma once

#include "tiling.h"

namespace kan {
namespace {

// Coefficients are packed once for all tasks, in groups of features whose panel stays within `panel_bytes`. A task
// then takes `block` features at a time: it plans its samples once and visits every tile of its outputs.
template <class S>
struct Forward {
  using C = Compute<S>;
  static constexpr int64_t block = 16, panel_bytes = 1 << 20;

  Problem<C> problem;
  const Operands& op;
  const Layer& layer;
  OutTiles<C> tiles;
  int threads;
  int64_t group;                 // features per panel
  int64_t samples;               // per task
  int64_t block_tiles;           // tiles of outputs per task
  int64_t first = 0, count = 0;  // features of the present group
  Panel<C> panel;
  bool keep_total = false;  // where y of the groups so far can't wait in y itself
  C* total;
  char* workspaces;
  int64_t workspace_bytes;

  // What one worker needs for one task.
  struct Workspace {
    PlanSet<S> plans;
    C *sum, *part;
    double* scratch;

    Workspace(Arena& arena, const Forward& f)
        : plans(arena, f.problem, smaller(block, f.group), f.samples, f.op.v, false),
          sum(arena.take<C>(f.samples * f.block_width())),
          part(arena.take<C>(f.samples * f.problem.kernel.wide.vectors * kLanes<C>)),
          scratch(arena.take<double>(f.problem.scratch_size())) {}
  };

  Forward(const Layer& l, const Operands& o)
      : problem(l, o.spline_weight, (o.base_weight && l.base != Base::zero) || !o.spline_weight, false),
        op(o),
        layer(problem.layer),
        tiles(problem.kernel, 0, l.out) {
    const int64_t per_feature = larger(1, Panel<C>::size(1, problem.rows, tiles.padded()) * sizeof(C));
    group = larger(1, smaller(layer.in, round_up(larger(1, panel_bytes / per_feature), block)));
    samples = samples_per_tile(layer.batch, problem.kernel.wide.vectors * KAN_VECTOR_BYTES);
    // Few tiles of samples: more blocks of outputs, but each makes the plans again.
    threads = threads_for(layer, problem.rows);
    const int64_t tasks = threads > 1 ? 4 * threads : 1;
    const int64_t sample_tiles = larger(1, ceil_div(layer.batch, samples)), wanted = ceil_div(tasks, sample_tiles);
    const int64_t fewest = larger(1, 256 / (problem.kernel.wide.vectors * kLanes<C>));
    const int64_t most = larger(1, 1024 / (problem.kernel.wide.vectors * kLanes<C>));
    block_tiles = smaller(most, larger(fewest, ceil_div(tiles.count, wanted)));
  }

  int64_t block_width() const { return block_tiles * problem.kernel.wide.vectors * kLanes<C>; }
  int64_t out_blocks() const { return ceil_div(tiles.count, block_tiles); }

  void place(Arena& arena) {
    problem.place_tables(arena, group);
    panel = {arena.take<C>(Panel<C>::size(group, problem.rows, tiles.padded())), group, problem.rows};
    total = keep_total ? arena.take<C>(layer.batch * layer.out) : nullptr;
    workspaces = arena.take<char>(0);
  }

  void run() {
    if (layer.batch == 0 || layer.out == 0) return;
    const bool several = group < layer.in;
    keep_total = several && sizeof(S) < sizeof(C);
    const Memory memory(bytes_of(*this));
    Arena arena(memory.data());
    place(arena);
    if (several && !keep_total) total = static_cast<C*>(op.y);

    const int64_t tasks = ceil_div(layer.batch, samples) * out_blocks();
    do {
      count = smaller(group, layer.in - first);
      panel.features = count;
      const int64_t parts = ceil_div(count, block) * (tiles.count + 1);
      parallel_for(parts < 4 ? 1 : threads, parts, [](void* f, int64_t i, int w) { self(f).prepare(i, w); }, this);
      parallel_for(threads, tasks, [](void* f, int64_t i, int w) { self(f).task(i, w); }, this);
      first += count;
    } while (first < layer.in);
  }

  static Forward& self(void* f) { return *static_cast<Forward*>(f); }

  void prepare(int64_t index, int worker) {
    const int64_t t = index % (tiles.count + 1), from = index / (tiles.count + 1) * block;
    const int64_t features = smaller(block, count - from);
    if (t == tiles.count) {
      problem.compile(static_cast<const C*>(op.grid) + first * problem.knots(), from, features,
                      workspace_of(*this, worker).scratch);
    } else {
      pack_tile<S>(panel, tiles, t, static_cast<const S*>(op.spline_weight),
                   problem.basis.has_base ? static_cast<const S*>(op.base_weight) : nullptr, layer.in, first, from,
                   features);
    }
  }

  void task(int64_t index, int worker) {
    Workspace w = workspace_of(*this, worker);
    const int64_t row = index / out_blocks() * samples, n = smaller(samples, layer.batch - row);
    const int64_t tile0 = index % out_blocks() * block_tiles, tile1 = smaller(tile0 + block_tiles, tiles.count);
    const S* x = static_cast<const S*>(op.x) + row * layer.in;
    const S* v = static_cast<const S*>(op.v);
    const int cells = problem.basis.cells();

    if (count == 0) std::memset(w.sum, 0, (tiles.start(tile1) - tiles.start(tile0)) * n * sizeof(C));
    for (int64_t i0 = 0; i0 < count; i0 += block) {
      const int64_t features = smaller(block, count - i0);
      w.plans.make(problem, x + first + i0, v ? v + row * layer.in + first + i0 : nullptr, n, features, i0);
      for (int64_t t = tile0; t < tile1; t++) {
        C* sum = w.sum + (tiles.start(t) - tiles.start(tile0)) * n;
        for (int64_t i = 0; i < features; i++) {
          // Sums of blocks, then their sum: shorter sums have smaller rounding errors.
          const bool last = i == features - 1;
          tiles.ops(t).forward(w.plans[i], cells, panel.spline(tiles, t, i0 + i), panel.base(tiles, t, i0 + i),
                               i > 0 ? w.part : nullptr, last && i0 > 0 ? sum : nullptr, last ? sum : w.part);
        }
      }
    }
    for (int64_t t = tile0; t < tile1; t++) {
      finish(w.sum + (tiles.start(t) - tiles.start(tile0)) * n, row, n, tiles.start(t), tiles.width(t), tiles.valid(t));
    }
  }

  // Adds the sums to what the groups before left, or to the bias.
  void finish(const C* sum, int64_t row, int64_t n, int64_t o, int64_t width, int64_t valid) {
    const S* bias = static_cast<const S*>(op.bias);
    const bool last = first + count == layer.in;
    for (int64_t b = 0; b < n; b++) {
      const int64_t at = (row + b) * layer.out + o;
      for (int64_t z = 0; z < valid; z += kLanes<C>) {
        Vec<C> y = load<Vec<C>>(sum + b * width + z);
        if (first > 0) {
          y += fetch(total + at + z, valid - z);
        } else if (bias) {
          y += fetch(bias + o + z, valid - z);
        }
        if (last) {
          put(static_cast<S*>(op.y) + at + z, y, valid - z);
        } else {
          put(total + at + z, y, valid - z);
        }
      }
    }
  }
};

}  // namespace
}  // namespace kan
