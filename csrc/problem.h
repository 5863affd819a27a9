// One call of the kernels, on CPUs and GPUs alike: kan_fast/ops/problem.py mirrors it field by field.
#pragma once

#include <cstdint>

namespace kan {

enum class Type : int32_t { f32, f64, f16, bf16 };
enum class Base : int32_t { silu, identity, zero };
enum class Extrapolation : int32_t { zero, linear, clamp };

// Contiguous tensors with the shapes of docs/architecture.md, on the device of the kernels. Null stands for an operand
// that is absent (v: ones; bias, spline_weight, base_weight: no such term) and for a result that is not wanted.
struct Problem {
  const void* x;              // (batch, in)
  const void* v;              // (batch, in)
  const void* g;              // (batch, out); for gradients of the edge magnitude (out, in)
  const void* spline_weight;  // (out, in, rows); for contract (batch, in, rows) in the dtype of grid
  const void* base_weight;    // (out, in); for contract (batch, in) in the dtype of grid
  const void* bias;           // (out)
  const void* grid;           // (in, knots), in float64 for float64 tensors, else in float32
  void* y;                    // (batch, out); edge magnitudes (out, in)
  void* gx;                   // (batch, in)
  void* gs;                   // (out, in, rows); for rows (batch, count, rows), aligned to 16 bytes
  void* gb;                   // (out, in); for rows (batch, count)
  void* gbias;                // (out)
  int64_t batch, in, out, knots;
  Type dtype;
  int32_t degree, order;
  Base base;
  Extrapolation extrapolation;

  // CPU: the threads of a call, and how many problems of these sizes follow each other in the tensors.
  int32_t threads;
  int64_t groups;

  // CUDA: the device and its stream, and what only its operations `rows` and `contract` take.
  int32_t device;
  void* stream;
  void* workspace;       // as many bytes as kan_cuda_workspace says, aligned to 256
  const void* table;     // workspace of an earlier rows or contract with the same in, grid and order, or null
  void* low;             // rounding errors of the rows in gs, in the same layout, or null
  int64_t first, count;  // the inputs of rows
};

}  // namespace kan
