// Layers with few outputs: every edge is a piecewise polynomial that is looked up in registers, with samples in the
// lanes.
#pragma once

#include "cpu/curves/narrow.h"
#include "cpu/tiles/tiling.h"

namespace kan {
namespace {

// On a piece of the grid an edge is sum_r c_r sum_q b_qr u^q = sum_q p_q u^q. That costs k + 1 look-ups and
// multiply-adds for each edge and vector of samples, and no sorting. Tiles have the outputs in the lanes, so they take
// as long for one output as for a whole vector of outputs.
template <class S>
struct CurveTable {
  using C = Compute<S>;
  using V = Vec<C>;
  static constexpr int lanes = kLanes<C>, columns = 2 * lanes;
  static constexpr int64_t block = tuning::kFeatureBlock;

  Setup<C> setup;
  const Operands& op;
  const Layer& layer;
  int64_t samples, padded;  // of a tile
  int threads;
  C *curves, *base_weights;  // [feature][output][power][piece]; [feature][output]
  char* workspaces;
  int64_t workspace_bytes;

  // Whether the table holds this layer.
  static bool fits(const Layer& l) {
    if (l.in < 1 || l.out < 1 || l.out > tuning::kMostCurveOutputs) return false;
    const int64_t bytes = l.in * l.out * (l.degree + 1) * columns * int64_t(sizeof(C));
    return describe_pieces<C>(l).columns && l.grid_size + l.degree <= columns && bytes <= tuning::kCurveBytes;
  }
  // Whether there are enough samples to make up for the time in which the curves are made.
  static bool worth_making(const Layer& l) { return l.batch >= tuning::kCurveSamples + l.out * l.out; }

  CurveTable(const Layer& l, const Operands& o, bool has_base)
      : setup(l, true, has_base && l.base != Base::zero), op(o), layer(setup.layer) {
    samples = samples_per_tile(layer.batch, (2 * layer.out + 8) * sizeof(C));
    padded = round_up(samples, lanes);
    threads = threads_for(layer, setup.rows);
  }

  void place_table(Arena& arena, bool with_curves) {
    setup.place_tables(arena, layer.in);
    curves = arena.take<C>(with_curves ? layer.in * edge_numbers() : 0);
    base_weights = arena.take<C>(layer.in * layer.out);
  }

  int64_t edge_numbers() const { return layer.out * (layer.degree + 1) * columns; }
  int64_t blocks() const { return ceil_div(layer.in, block); }
  // The threads for work on all edges: one unless there are many features, because there is little to do.
  int edge_threads() const { return blocks() < tuning::kParallelEdgeBlocks ? 1 : threads; }
  C* curve(int64_t feature, int64_t o) const {
    return curves + (feature * layer.out + o) * (layer.degree + 1) * columns;
  }
  // The coefficients of u^q in row r, one for each piece.
  const C* coefficient(int64_t feature, int q, int r) const {
    const Pieces<C>& g = setup.basis.pieces;
    return g.coefficients_of(feature) + (q * g.width + r) * columns;
  }
  int cell_of(int piece) const {
    const Pieces<C>& g = setup.basis.pieces;
    return piece < g.shift ? 0 : piece - g.shift >= g.grid_size ? g.grid_size - 1 : piece - g.shift;
  }

  void compile(int64_t first, int64_t count, double* scratch) {
    setup.compile(static_cast<const C*>(op.grid), first, count, scratch);
  }

  // The polynomials of a block of features, or their derivatives in x.
  void make_curves(int64_t first, int64_t count, bool derivative) {
    const Pieces<C>& g = setup.basis.pieces;
    IntVec<C> cell[2];
    for (int lane = 0; lane < columns; lane++) cell[lane / lanes][lane % lanes] = cell_of(lane);
    for (int64_t i = first; i < first + count; i++) {
      const C* inverse = g.inverse_widths_of(i);
      for (int64_t o = 0; o < layer.out; o++) {
        const S* weight = static_cast<const S*>(op.spline_weight) + (o * layer.in + i) * setup.rows;
        const V low = fetch(weight, setup.rows), high = fetch(weight + lanes, setup.rows - lanes);
        for (int half = 0; half < columns; half += lanes) {
          C* target = curve(i, o) + half;
          for (int q = derivative; q <= layer.degree; q++) {
            V sum = {};
            for (int r = 0; r <= layer.degree; r++) {
              sum += lookup(low, high, cell[half > 0] + r) * load<V>(coefficient(i, q, r) + half);
            }
            store(target + (q - derivative) * columns, derivative ? sum * C(q) * load<V>(inverse + half) : sum);
          }
          if (derivative) store(target + layer.degree * columns, V{});
        }
        base_weights[i * layer.out + o] = op.base_weight ? get(op.base_weight, o * layer.in + i) : C(0);
      }
    }
  }

  static C get(const void* tensor, int64_t index) { return fetch(static_cast<const S*>(tensor) + index, 1)[0]; }

  // Calls run(degree), a constant.
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
};

}  // namespace
}  // namespace kan
