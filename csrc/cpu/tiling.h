// How the outputs are cut into tiles, and how coefficients lie in a panel.
#pragma once

#include "pack.h"
#include "tiles.h"

namespace kan {
namespace {

// Features whose plans and coefficients are made together: a cache line of inputs.
constexpr int64_t kFeatureBlock = 16;

// What one call evaluates: the layer, its basis, and the kernels for its rows.
template <class C>
struct Problem {
  Layer layer;
  Basis<C> basis;
  Kernel<C> kernel;
  CompileFeature<C> compile_feature;
  MakePlan<C> make_plan;
  int rows;  // spline rows in all

  // slope: plans with derivatives of one order more; differences: see Basis.
  Problem(const Layer& l, bool spline, bool base, bool slope, bool differences)
      : layer(l),
        basis{describe_pieces<C>(without_spline(l, spline)),
              BaseFunction<C>(l.base, l.order),
              BaseFunction<C>(l.base, l.order + 1),
              spline,
              base,
              differences},
        kernel(kernel_of<C>(spline ? l.degree + 1 : 0, base)),
        compile_feature(compile_feature_of<C>(l.degree)),
        make_plan(make_plan_of<C>(spline ? l.degree : 0, slope)),
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
    basis.pieces.piece_columns = arena.take<C>(features * basis.pieces.columns * basis.pieces.size);
  }
  Problem with_tables(Arena& arena, int64_t features) const {
    Problem p = *this;
    p.place_tables(arena, features);
    return p;
  }
  int active_rows() const { return (basis.has_spline ? layer.degree + 1 : 0) + basis.has_base; }
  int64_t scratch_size() const { return basis.pieces.knots() + 2 * layer.degree + kLanes<double>; }
  void compile(const C* grid, int64_t first, int64_t features, double* scratch) const {
    int32_t* table = basis.pieces.table;
    for (int64_t i = first; basis.has_spline && i < first + features; i++) {
      const C* knot = grid + i * knots();
      const bool repeated = i > first && std::memcmp(knot, knot - knots(), knots() * sizeof(C)) == 0;
      table[i] = repeated ? table[i - 1] : i;
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
    // A padded wide tile takes less time than two narrow ones.
    if (count - wide > 1) {
      wide++;
      count = wide;
    }
  }

  const TileOps<C>& ops(int64_t t) const { return t < wide ? kernel.wide : kernel.narrow; }
  int64_t width(int64_t t) const { return ops(t).vectors * kLanes<C>; }
  // Outputs before tile t, padding included.
  int64_t start(int64_t t) const {
    const int64_t w = kernel.wide.vectors * kLanes<C>;
    return t <= wide ? t * w : wide * w + (t - wide) * kLanes<C>;
  }
  int64_t padded() const { return start(count); }
  int64_t valid(int64_t t) const { return smaller(width(t), outs - start(t)); }
};

// The coefficients of `features` features and of the outputs of OutTiles: for each tile the spline rows
// [feature][row][output], then the base rows [feature][output].
template <class C>
struct Panel {
  C* data;
  int64_t features, rows;

  static int64_t size(int64_t features, int64_t rows, int64_t padded) { return features * (rows + 1) * padded; }
  C* tile(const OutTiles<C>& tiles, int64_t t) const { return data + tiles.start(t) * features * (rows + 1); }
  C* spline(const OutTiles<C>& tiles, int64_t t, int64_t feature) const {
    return tile(tiles, t) + feature * rows * tiles.width(t);
  }
  C* base(const OutTiles<C>& tiles, int64_t t, int64_t feature) const {
    return tile(tiles, t) + (features * rows + feature) * tiles.width(t);
  }
  void clear(const OutTiles<C>& tiles) const { std::memset(data, 0, size(features, rows, tiles.padded()) * sizeof(C)); }
};

// spline (out, in, rows) and base (out, in) -> `features` features of tile t of the panel, from place `from` on. The
// panel's place 0 is feature `first`. An absent tensor gives zeros.
template <class S>
void pack_tile(const Panel<Compute<S>>& panel, const OutTiles<Compute<S>>& tiles, int64_t t, const S* spline,
               const S* base, int64_t in, int64_t first, int64_t from, int64_t features) {
  const int64_t o = tiles.first + tiles.start(t), n = tiles.valid(t), width = tiles.width(t), rows = panel.rows;
  const int64_t edge = o * in + first + from;
  Compute<S>*splines = panel.spline(tiles, t, from), *bases = panel.base(tiles, t, from);
  if (spline) {
    pack_transposed(spline + edge * rows, in * rows, n, features * rows, splines, width);
  } else {
    std::memset(splines, 0, features * rows * width * sizeof(Compute<S>));
  }
  if (base) {
    pack_transposed(base + edge, in, n, features, bases, width);
  } else {
    std::memset(bases, 0, features * width * sizeof(Compute<S>));
  }
}

template <class S>
void unpack_tile(const Panel<Compute<S>>& panel, const OutTiles<Compute<S>>& tiles, int64_t t, S* spline, S* base,
                 int64_t in, int64_t first) {
  const int64_t o = tiles.first + tiles.start(t), n = tiles.valid(t), width = tiles.width(t), rows = panel.rows;
  if (spline) {
    unpack_transposed(panel.tile(tiles, t), width, spline + (o * in + first) * rows, in * rows, n,
                      panel.features * rows);
  }
  if (base) unpack_transposed(panel.base(tiles, t, 0), width, base + o * in + first, in, n, panel.features);
}

// Asks for the coefficients of the next block of features while the present one is used, a few lines in each of `steps`
// steps: packing would wait for memory otherwise.
template <class S>
class Prefetch {
 public:
  Prefetch(const OutTiles<Compute<S>>& tiles, const Operands& op, int64_t in, int64_t rows, int64_t first,
           int64_t steps)
      : outs_(first < in ? tiles.outs : 0),
        steps_(steps),
        row_bytes_(in * rows * sizeof(S)),
        bytes_(smaller(kFeatureBlock, in - first) * rows * sizeof(S)),
        base_row_bytes_(op.base_weight ? in * sizeof(S) : 0),
        spline_(static_cast<const char*>(op.spline_weight) + tiles.first * row_bytes_ + first * rows * sizeof(S)),
        base_(static_cast<const char*>(op.base_weight) + tiles.first * base_row_bytes_ + first * sizeof(S)) {
    if (!op.spline_weight || !op.base_weight) outs_ = 0;
  }

  void step() {
    for (owed_ += outs_; owed_ >= steps_; owed_ -= steps_) {
      for (int64_t at = 0; at < bytes_; at += 64) __builtin_prefetch(spline_ + at, 0, 2);
      __builtin_prefetch(base_, 0, 2);
      spline_ += row_bytes_;
      base_ += base_row_bytes_;
    }
  }

 private:
  int64_t outs_, steps_, row_bytes_, bytes_, base_row_bytes_;
  const char *spline_, *base_;
  int64_t owed_ = 0;
};

// One plan per feature for a tile of at most n samples, and the inputs they come from.
template <class S>
struct PlanSet {
  using C = Compute<S>;
  int64_t padded, width, cells;
  C *x, *v, *value, *base, *slope, *base_slope;
  int32_t *start, *row;
  bool* differences;
  PlanScratch<C> scratch;

  PlanSet(Arena& arena, const Problem<C>& problem, int64_t features, int64_t n, bool with_v, bool with_slope)
      : padded(round_up(n, kLanes<C>)),
        width(problem.basis.pieces.width),
        cells(problem.basis.cells()),
        x(arena.take<C>(features * padded)),
        v(with_v ? arena.take<C>(features * padded) : nullptr),
        value(arena.take<C>(features * padded * width)),
        base(arena.take<C>(features * padded)),
        slope(with_slope ? arena.take<C>(features * padded * width) : nullptr),
        base_slope(with_slope ? arena.take<C>(features * padded) : nullptr),
        start(arena.take<int32_t>(features * (cells + 1))),
        row(arena.take<int32_t>(features * padded)),
        differences(arena.take<bool>(features)),
        scratch(arena, n, cells) {}

  Plan<C> operator[](int64_t i) const {
    const int64_t at = i * padded;
    Plan<C> plan{start + i * (cells + 1), row + at, value + at * width, base + at, nullptr, nullptr, differences[i]};
    if (slope) {
      plan.slope = slope + at * width;
      plan.base_slope = base_slope + at;
    }
    return plan;
  }

  // xs, vs: the first of n rows and of `features` columns. The problem's tables begin with feature - first_table.
  void make(const Problem<C>& problem, const S* xs, const S* vs, int64_t n, int64_t features, int64_t first_table) {
    pack_transposed(xs, problem.layer.in, n, features, x, padded);
    if (vs) pack_transposed(vs, problem.layer.in, n, features, v, padded);
    for (int64_t i = 0; i < features; i++) {
      differences[i] = false;
      Plan<C> plan = (*this)[i];
      const Samples<C> samples{x + i * padded, vs ? v + i * padded : nullptr, n};
      problem.make_plan(problem.basis, first_table + i, samples, scratch, plan);
      differences[i] = plan.differences;
    }
  }
};

// Samples per tile: a tile of outputs takes about half of a first-level cache.
inline int64_t samples_per_tile(int64_t batch, int64_t bytes_per_sample) {
  const int64_t n = 32768 / bytes_per_sample;
  return larger(1, smaller(batch, n < 64 ? 64 : n > 512 ? 512 : n));
}

// Bytes of a call with `threads` workspaces: what `place` takes, and the workspaces. Sets workspace_bytes.
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

// Small problems finish before a second thread would have woken up.
inline int threads_for(const Layer& layer, int rows) {
  const double work = double(layer.batch) * layer.in * (layer.out + 16) * (rows + 1);
  return work < 2e6 ? 1 : layer.threads;
}

}  // namespace
}  // namespace kan
