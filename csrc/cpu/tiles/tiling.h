// How the outputs are cut into tiles, and how coefficients lie in a panel.
#pragma once

#include "cpu/basis/compile.h"
#include "cpu/simd/pack.h"
#include "cpu/tiles/kernels.h"

namespace kan {
namespace {

// All that a call settles once: the layer, its basis, and the kernels for its rows.
template <class C>
struct Setup {
  Layer layer;
  Basis<C> basis;
  Kernel<C> kernel;
  CompileFeature<C> compile_feature;
  MakePlan<C> make_plan;
  int rows;  // spline rows in all

  Setup(const Layer& l, bool spline, bool base, Slopes slopes = Slopes::none)
      : layer(l),
        basis{describe_pieces<C>(without_spline(l, spline), slopes), BaseFunction<C>(l.base, l.order),
              BaseFunction<C>(l.base, l.order + 1), spline, base},
        kernel(kernel_of<C>(spline ? l.degree + 1 : 0, base)),
        compile_feature(compile_feature_of<C>(l.degree)),
        make_plan(make_plan_of<C>(spline ? l.degree : 0, slopes != Slopes::none)),
        rows(spline ? l.grid_size + l.degree : 0) {}

  static Layer without_spline(Layer l, bool spline) {
    if (!spline) l.degree = 0;
    return l;
  }

  int knots() const { return layer.grid_size + 2 * layer.degree + 1; }

  // Tables for `features` features, compiled from the knots `grid` of the first of them.
  void place_tables(Arena& arena, int64_t features) {
    if (!basis.has_spline) return;
    basis.pieces.table = arena.take<int32_t>(features);
    basis.pieces.bound_table = arena.take<C>(features * basis.pieces.bound_stride);
    basis.pieces.piece_table = arena.take<C>(features * basis.pieces.count * basis.pieces.size);
    const int64_t differences = basis.pieces.slopes == Slopes::differences ? features : 0;
    basis.pieces.rate_table = arena.take<C>(differences * basis.pieces.rows());
    basis.pieces.permutation_table = arena.take<int32_t>(differences * basis.pieces.grid_size * layer.degree);
    basis.pieces.piece_columns = arena.take<C>(features * basis.pieces.columns * basis.pieces.size);
  }
  Setup with_tables(Arena& arena, int64_t features) const {
    Setup p = *this;
    p.place_tables(arena, features);
    return p;
  }
  int active_rows() const { return (basis.has_spline ? layer.degree + 1 : 0) + basis.has_base; }
  int64_t scratch_size() const { return basis.pieces.knots() + 2 * layer.degree + kLanes<double>; }
  // Compiles the knots of features [first, first + features), or points to the table of the feature before if the knots
  // are the same. follows: the tables still hold the block of features before these. If all features of that block
  // share its first table, this block can share it too.
  void compile(const C* grid, int64_t first, int64_t features, double* scratch, bool follows = false) const {
    int32_t* table = basis.pieces.table;
    bool shared = basis.has_spline && follows && table[tuning::kFeatureBlock - 1] == 0;
    for (int64_t i = first; basis.has_spline && i < first + features; i++, shared = true) {
      const C* knot = grid + i * knots();
      const bool repeated = shared && std::memcmp(knot, knot - knots(), knots() * sizeof(C)) == 0;
      table[i] = !repeated ? i : i > first ? table[i - 1] : 0;
      if (!repeated) compile_feature(basis.pieces, knot, i, scratch);
    }
  }
};

// Outputs [first, first + outs) as wide tiles followed by one-vector tiles.
template <class C>
struct OutTiles {
  const Kernel<C>& kernel;
  int64_t first, outs;
  int64_t wide, count;

  OutTiles(const Kernel<C>& k, int64_t first_out, int64_t n) : kernel(k), first(first_out), outs(n) {
    const int64_t width = k.wide.vectors * kLanes<C>;
    wide = n / width;
    count = wide + (n - wide * width + kLanes<C> - 1) / kLanes<C>;
    // One wide tile with padding takes less time than two narrow ones.
    if (count - wide > 1) {
      wide++;
      count = wide;
    }
  }

  const TileOps<C>& ops(int64_t t) const { return t < wide ? kernel.wide : kernel.narrow; }
  int64_t width(int64_t t) const { return ops(t).vectors * kLanes<C>; }
  // The number of outputs before tile t, padding included.
  int64_t start(int64_t t) const {
    const int64_t w = kernel.wide.vectors * kLanes<C>;
    return t <= wide ? t * w : wide * w + (t - wide) * kLanes<C>;
  }
  int64_t padded() const { return start(count); }
  int64_t valid(int64_t t) const { return smaller(width(t), outs - start(t)); }
};

// Coefficients of `features` features and of one tile of outputs: the spline rows [feature][row][output], then the base
// rows [feature][output].
template <class C>
struct Panel {
  C* data;
  int64_t features, rows, width;

  static int64_t size(int64_t features, int64_t rows, int64_t width) { return features * (rows + 1) * width; }
  C* spline(int64_t feature) const { return data + feature * rows * width; }
  C* base(int64_t feature) const { return data + (features * rows + feature) * width; }
  void clear() const { std::memset(data, 0, size(features, rows, width) * sizeof(C)); }
};

// Tile t of panels that follow each other in memory.
template <class C>
Panel<C> panel_at(C* data, const OutTiles<C>& tiles, int64_t t, int64_t features, int64_t rows) {
  return {data + Panel<C>::size(features, rows, tiles.start(t)), features, rows, tiles.width(t)};
}

// Fills the panel of tile t, for the features from `first` on, from spline (out, in, rows) and base (out, in). An
// absent tensor counts as zeros.
template <class S>
void pack_panel(const Panel<Compute<S>>& panel, const OutTiles<Compute<S>>& tiles, int64_t t, const void* spline,
                const void* base, int64_t in, int64_t first) {
  const auto [data, features, rows, width] = panel;
  const int64_t edge = (tiles.first + tiles.start(t)) * in + first, n = tiles.valid(t);
  if (spline) {
    pack_transposed(static_cast<const S*>(spline) + edge * rows, in * rows, n, features * rows, data, width);
  } else {
    std::memset(data, 0, features * rows * width * sizeof(Compute<S>));
  }
  if (base) {
    pack_transposed(static_cast<const S*>(base) + edge, in, n, features, panel.base(0), width);
  } else {
    std::memset(panel.base(0), 0, features * width * sizeof(Compute<S>));
  }
}

// Replaces the spline rows c_j of a panel for j > 0 by the differences e_j of Slopes. `last` receives the last c_j of
// every feature.
template <class C>
void take_differences(const Pieces<C>& pieces, const Panel<C>& panel, C* last) {
  const int64_t width = panel.width;
  for (int64_t i = 0; i < panel.features; i++, last += width) {
    const C* rate = pieces.rates_of(i);
    C* row = panel.spline(i) + (panel.rows - 1) * width;
    std::memcpy(last, row, width * sizeof(C));
    for (int64_t j = panel.rows - 1; j > 0; j--, row -= width) {
      for (int64_t z = 0; z < width; z += kLanes<C>) {
        store(row + z, (load<Vec<C>>(row + z) - load<Vec<C>>(row + z - width)) * rate[j]);
      }
    }
  }
}

template <class S>
void unpack_panel(const Panel<Compute<S>>& panel, const OutTiles<Compute<S>>& tiles, int64_t t, void* spline,
                  void* base, int64_t in, int64_t first) {
  const auto [data, features, rows, width] = panel;
  const int64_t edge = (tiles.first + tiles.start(t)) * in + first, n = tiles.valid(t), stride = in * rows;
  if (spline) {
    unpack_transposed(data, width, static_cast<S*>(spline) + edge * rows, stride, n, features * rows,
                      tiles.outs * stride * int64_t(sizeof(S)) > tuning::kStreamBytes);
  }
  if (base) unpack_transposed(panel.base(0), width, static_cast<S*>(base) + edge, in, n, features);
}

// Asks the memory for the spline coefficients of tile t, for the features from `first` on.
template <class S>
Prefetch prefetch_panel(const OutTiles<Compute<S>>& tiles, int64_t t, int64_t rows, const void* spline, int64_t in,
                        int64_t first, int64_t features, int64_t steps) {
  if (!spline) return {};
  const int64_t edge = (tiles.first + tiles.start(t)) * in + first, edge_bytes = rows * sizeof(S);
  return {static_cast<const char*>(spline) + edge * edge_bytes, tiles.valid(t), features * edge_bytes, in * edge_bytes,
          steps};
}

// The plans of `tiles` tiles of at most n samples, one plan for each tile and feature, and the inputs of one tile.
// Plans must be made in their order: sorting writes up to a vector beyond the end of a plan, where the next plan
// begins.
template <class S>
struct PlanSet {
  using C = Compute<S>;
  int64_t features, samples, padded, width, cells;  // of one tile
  C *x, *v, *value, *base, *slope, *base_slope;
  int32_t *start, *row, *outside;  // outside: the numbers of samples below and above the range
  PlanScratch<C> scratch;

  PlanSet(Arena& arena, const Setup<C>& setup, int64_t features, int64_t tiles, int64_t n, bool with_v, bool with_slope)
      : features(features),
        samples(n),
        padded(round_up(n, kLanes<C>)),
        width(setup.basis.pieces.width),
        cells(setup.basis.cells()),
        x(arena.take<C>(features * padded)),
        v(with_v ? arena.take<C>(features * padded) : nullptr),
        value(arena.take<C>(tiles * features * padded * width)),
        base(arena.take<C>(tiles * features * padded)),
        slope(with_slope ? arena.take<C>(tiles * features * padded * width) : nullptr),
        base_slope(with_slope ? arena.take<C>(tiles * features * padded) : nullptr),
        start(arena.take<int32_t>(tiles * features * (cells + 1))),
        row(arena.take<int32_t>(tiles * features * padded + 16)),
        outside(arena.take<int32_t>(tiles * features * 2)),
        scratch(arena, n, cells) {}

  Plan<C> operator[](int64_t i) const {
    const int64_t at = i * padded;
    Plan<C> plan{start + i * (cells + 1), row + at,          value + at * width, base + at, nullptr, nullptr,
                 outside[2 * i],          outside[2 * i + 1]};
    if (slope) {
      plan.slope = slope + at * width;
      plan.base_slope = base_slope + at;
    }
    return plan;
  }

  // The number of the first plan of the tile that begins with sample b.
  int64_t tile(int64_t b) const { return b / samples * features; }

  // Makes the plans of n samples from `first_sample` on, for the `count` features from `first_feature` on. The tables
  // of `setup` are those of these features.
  void make(const Setup<C>& setup, const Operands& op, int64_t first_sample, int64_t n, int64_t first_feature,
            int64_t count) {
    const S *xs = static_cast<const S*>(op.x), *vs = static_cast<const S*>(op.v);
    for (int64_t b = 0; b < n; b += samples) {
      const int64_t at = (first_sample + b) * setup.layer.in + first_feature;
      make_tile(setup, xs + at, vs ? vs + at : nullptr, smaller(samples, n - b), count, tile(b));
    }
  }

  // Makes the plans of one tile. xs, vs: its first number; it has n rows and `count` columns.
  void make_tile(const Setup<C>& setup, const S* xs, const S* vs, int64_t n, int64_t count, int64_t first) {
    pack_transposed(xs, setup.layer.in, n, count, x, padded);
    if (vs) pack_transposed(vs, setup.layer.in, n, count, v, padded);
    for (int64_t i = 0; i < count; i++) {
      Plan<C> plan = (*this)[first + i];
      const Samples<C> inputs{x + i * padded, vs ? v + i * padded : nullptr, n};
      setup.make_plan(setup.basis, i, inputs, scratch, plan);
      outside[2 * (first + i)] = plan.below;
      outside[2 * (first + i) + 1] = plan.above;
    }
  }
};

// Samples per tile: their sums take tuning::kTileBytes.
inline int64_t samples_per_tile(int64_t batch, int64_t bytes_per_sample) {
  const int64_t fit = tuning::kTileBytes / bytes_per_sample;
  const int64_t n = larger(tuning::kFewestTileSamples, smaller(fit, tuning::kMostTileSamples));
  return larger(1, smaller(batch, n));
}

// The bytes of a call: those that `place` takes, and `threads` workspaces. Sets workspace_bytes.
template <class Call>
int64_t bytes_of(Call& call) {
  Arena workspace(nullptr), rest(nullptr);
  typename Call::Workspace(workspace, call);
  call.workspace_bytes = workspace.used();
  call.place(rest);
  return rest.used() + call.threads * call.workspace_bytes;
}

template <class Call>
typename Call::Workspace workspace_of(const Call& call, int worker) {
  Arena arena(call.workspaces + worker * call.workspace_bytes);
  return typename Call::Workspace(arena, call);
}

// One thread for small problems: a second one would wake up after the first has finished.
inline int threads_for(const Layer& layer, int rows) {
  const double work = double(layer.batch) * layer.in * (layer.out + tuning::kOutputsOfPlan) * (rows + 1);
  return work < tuning::kParallelWork ? 1 : layer.threads;
}

}  // namespace
}  // namespace kan
