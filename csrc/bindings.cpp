// The Python module: integers in, integers out. Everything about tensors happens in kan_fast/ops/native.py.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "kernels.h"

namespace py = pybind11;

namespace {

const void* in(uintptr_t address) { return reinterpret_cast<const void*>(address); }
void* out(uintptr_t address) { return reinterpret_cast<void*>(address); }

template <kan::Kernel kan::Kernels::* kernel, bool edges>
void run(int isa, int type, int threads, int64_t groups, int64_t batch, int64_t in_features, int64_t out_features,
         int grid_size, int degree, int order, int base, int extrapolation, uintptr_t grid, uintptr_t x, uintptr_t v,
         uintptr_t g, uintptr_t spline_weight, uintptr_t base_weight, uintptr_t bias, uintptr_t y, uintptr_t grad_x,
         uintptr_t grad_spline, uintptr_t grad_base, uintptr_t grad_bias) {
  int count;
  const kan::Kernels* const* kernels = kan::available_kernels(&count);
  if (isa < 0 || isa >= count) throw std::invalid_argument("no such instruction set");
  const kan::Layer layer{batch,
                         in_features,
                         out_features,
                         grid_size,
                         degree,
                         order,
                         static_cast<kan::Base>(base),
                         static_cast<kan::Extrapolation>(extrapolation),
                         threads};
  const kan::Operands operands{in(grid),        in(x),         in(v),  in(g),       in(spline_weight),
                               in(base_weight), in(bias),      out(y), out(grad_x), out(grad_spline),
                               out(grad_base),  out(grad_bias)};
  py::gil_scoped_release unlocked;
  kan::run_groups(kernels[isa]->*kernel, edges, static_cast<kan::Type>(type), layer, operands, groups);
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.def("isas", [] {
    int count;
    const kan::Kernels* const* kernels = kan::available_kernels(&count);
    py::list names;
    for (int i = 0; i < count; i++) names.append(kernels[i]->name);
    return names;
  });
  m.def("use_thread_pool", [](uintptr_t fork) { kan::use_thread_pool(reinterpret_cast<kan::Fork>(fork)); });
  m.def("has_thread_pool", &kan::has_thread_pool);
  m.def("is_forked", &kan::is_forked);
  m.def("forward", &run<&kan::Kernels::forward, false>);
  m.def("backward", &run<&kan::Kernels::backward, false>);
  m.def("edge_magnitude", &run<&kan::Kernels::edge_magnitude, true>);
  m.def("edge_magnitude_backward", &run<&kan::Kernels::edge_magnitude_backward, true>);
}
