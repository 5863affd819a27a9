// Many problems of one size, such as the members of an ensemble: threads are shared out among them.
#include <type_traits>

#include "kernels.h"

namespace kan {
namespace {

template <class P>
P advance(P p, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<P>>, const char, char>;
  return p ? static_cast<Byte*>(p) + bytes : nullptr;
}

struct Groups {
  Kernel kernel;
  bool edges;
  Type type;
  Layer layer;
  Operands operands;

  void run(int64_t i) const {
    const int64_t size = type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2, grid_size = type == Type::f64 ? 8 : 4;
    const int64_t rows = layer.grid_size + layer.degree, knots = rows + layer.degree + 1;
    const int64_t x = i * layer.batch * layer.in * size, base = i * layer.out * layer.in * size;
    const int64_t y = edges ? base : i * layer.batch * layer.out * size, bias = i * layer.out * size;
    const Operands& o = operands;
    kernel(type, layer,
           {advance(o.grid, i * layer.in * knots * grid_size), advance(o.x, x), advance(o.v, x), advance(o.g, y),
            advance(o.spline_weight, base * rows), advance(o.base_weight, base), advance(o.bias, bias), advance(o.y, y),
            advance(o.grad_x, x), advance(o.grad_spline, base * rows), advance(o.grad_base, base),
            advance(o.grad_bias, bias)});
  }
};

}  // namespace

void run_groups(Kernel kernel, bool edges, Type type, const Layer& layer, const Operands& operands, int64_t groups) {
  Groups all{kernel, edges, type, layer, operands};
  const bool parallel = groups >= layer.threads;  // else the threads share the work of each
  if (parallel) all.layer.threads = 1;
  parallel_for(
      parallel ? layer.threads : 1, groups,
      [](void* context, int64_t i, int) { static_cast<Groups*>(context)->run(i); }, &all);
}

}  // namespace kan
