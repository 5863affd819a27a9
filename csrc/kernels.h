// The interface of the compiled kernels: raw pointers and sizes, no torch, no Python.
#pragma once

#include <cstddef>
#include <cstdint>

#include "problem.h"

namespace kan {

struct Layer {
  int64_t batch, in, out;
  int grid_size, degree, order;
  Base base;
  Extrapolation extrapolation;
  int threads;
};

// Contiguous tensors in the layouts of docs/architecture.md. Null stands for an absent operand (v: ones; bias,
// spline_weight, base_weight: no such term) or for a result that is not wanted.
struct Operands {
  const void *grid, *x, *v, *g, *spline_weight, *base_weight, *bias;
  void *y, *grad_x, *grad_spline, *grad_base, *grad_bias;
};

// The kernels compiled for one instruction set.
//   forward                  y
//   backward                 grad_spline, grad_base at layer.order with v; grad_bias; grad_x at layer.order + 1, or at
//                            layer.order if neither grad_spline nor grad_base is wanted
//   edge_magnitude           y (out, in) = mean over the batch of |phi|
//   edge_magnitude_backward  grad_x, grad_spline, grad_base from g (out, in)
using Kernel = void (*)(Type, const Layer&, const Operands&);
struct Kernels {
  const char* name;
  Kernel forward, backward, edge_magnitude, edge_magnitude_backward;
};

// Runs a kernel on all groups of a problem. `edges`: y and g are (out, in), as edge_magnitude has them, and not
// (batch, out).
void run(Kernel kernel, bool edges, const Problem& problem);

// The kernels this processor can execute, best first; count receives their number.
const Kernels* const* available_kernels(int* count);

// The entry point of an OpenMP runtime, GOMP_parallel, which both GNU OpenMP and libomp have. Null: kernels run on one
// thread.
using Fork = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
void use_thread_pool(Fork fork);
bool has_thread_pool();

// Runs task(context, index, worker) for every index in [0, tasks), on at most `threads` threads of that runtime. Worker
// numbers are below `threads`. Rethrows the first exception of a task.
using Task = void (*)(void* context, int64_t index, int worker);
void parallel_for(int threads, int64_t tasks, Task task, void* context);

// True in a process that was forked off one that had this module: parallel_for uses one thread there.
bool is_forked();

// Uninitialised memory for one call, aligned to a cache line.
class Memory {
 public:
  explicit Memory(size_t bytes);  // throws std::bad_alloc
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  bool shared_;
  void* data_;
};

// Asks for huge pages where the memory is large: fresh memory costs a page fault every 4 KB otherwise.
void use_huge_pages(void* memory, size_t bytes);

}  // namespace kan
