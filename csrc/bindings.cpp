// The Python module: it takes problems as bytes. kan_fast/ops/native.py does everything about tensors.
#include <pybind11/pybind11.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels.h"

namespace py = pybind11;

namespace {

template <kan::Kernel kan::Kernels::* kernel, bool edges>
void run(int isa, std::string_view bytes) {
  int count;
  const kan::Kernels* const* kernels = kan::available_kernels(&count);
  if (isa < 0 || isa >= count) throw std::invalid_argument("no such instruction set");
  kan::Problem problem;
  if (bytes.size() != sizeof problem) {
    throw std::invalid_argument("a problem has " + std::to_string(sizeof problem) + " bytes, got " +
                                std::to_string(bytes.size()));
  }
  std::memcpy(&problem, bytes.data(), sizeof problem);
  py::gil_scoped_release unlocked;
  kan::run(kernels[isa]->*kernel, edges, problem);
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
  m.def("problem_size", [] { return sizeof(kan::Problem); });
  m.def("use_thread_pool", [](uintptr_t fork) { kan::use_thread_pool(reinterpret_cast<kan::Fork>(fork)); });
  m.def("has_thread_pool", &kan::has_thread_pool);
  m.def("is_forked", &kan::is_forked);
  m.def("forward", &run<&kan::Kernels::forward, false>);
  m.def("backward", &run<&kan::Kernels::backward, false>);
  m.def("edge_magnitude", &run<&kan::Kernels::edge_magnitude, true>);
  m.def("edge_magnitude_backward", &run<&kan::Kernels::edge_magnitude_backward, true>);
}
