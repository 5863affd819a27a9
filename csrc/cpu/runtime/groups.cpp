// From a problem to calls of a kernel, one for each group: threads are shared out among the groups.
#include <type_traits>

#include "kernels.h"

namespace kan {
namespace {

template <class P>
P advance(P p, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<P>>, const char, char>;
  return p ? static_cast<Byte*>(p) + bytes : nullptr;
}

Layer layer_of(const Problem& p) {
  const int grid_size = static_cast<int>(p.knots) - 2 * p.degree - 1;
  return {p.batch, p.in, p.out, grid_size, p.degree, p.order, p.base, p.extrapolation, p.threads};
}

struct Groups {
  Kernel kernel;
  bool edges;
  const Problem& p;
  Layer layer;

  void run(int64_t i) const {
    const int64_t size = p.dtype == Type::f64 ? 8 : p.dtype == Type::f32 ? 4 : 2;
    const int64_t grid = i * p.in * p.knots * (p.dtype == Type::f64 ? 8 : 4);
    const int64_t x = i * p.batch * p.in * size, base = i * p.out * p.in * size, bias = i * p.out * size;
    const int64_t spline = base * (p.knots - p.degree - 1), y = edges ? base : i * p.batch * p.out * size;
    Operands o;
    o.grid = advance(p.grid, grid);
    o.x = advance(p.x, x);
    o.v = advance(p.v, x);
    o.g = advance(p.g, y);
    o.spline_weight = advance(p.spline_weight, spline);
    o.base_weight = advance(p.base_weight, base);
    o.bias = advance(p.bias, bias);
    o.y = advance(p.y, y);
    o.grad_x = advance(p.gx, x);
    o.grad_spline = advance(p.gs, spline);
    o.grad_base = advance(p.gb, base);
    o.grad_bias = advance(p.gbias, bias);
    kernel(p.dtype, layer, o);
  }
};

}  // namespace

void run(Kernel kernel, bool edges, const Problem& problem) {
  Groups all{kernel, edges, problem, layer_of(problem)};
  const bool parallel = problem.groups >= problem.threads;  // else the threads share the work of each
  if (parallel) all.layer.threads = 1;
  parallel_for(
      parallel ? problem.threads : 1, problem.groups,
      [](void* context, int64_t i, int) { static_cast<Groups*>(context)->run(i); }, &all);
}

}  // namespace kan
