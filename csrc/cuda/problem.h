// The C interface of the CUDA kernels: kan_fast/ops/cuda.py mirrors it with ctypes.
#pragma once

#include <cstdint>

namespace kan_cuda {

enum Operation : int32_t {
  kForward,
  kGradInput,
  kGradCoef,
  kEdgeMagnitude,
  kEdgeGradInput,
  kEdgeGradCoef,
  kRows,      // basis rows for matrix products: some inputs of the spline rows in gs and base rows in ge
  kContract,  // basis rows times the factors spline_weight and base_weight, in gx
};
enum DType : int32_t { kFloat32, kFloat64, kFloat16, kBFloat16 };
enum Base : int32_t { kSilu, kIdentity, kZero };
enum Extrapolation : int32_t { kFadeOut, kLinear, kClamp };

// Device pointers to contiguous tensors, null where the operation has none. Shapes as in docs/architecture.md.
struct Problem {
  const void* x;              // (batch, in)
  const void* v;              // (batch, in), or null for ones
  const void* g;              // (batch, out); for gradients of the edge magnitude (out, in)
  const void* spline_weight;  // (out, in, rows), or null for none; factors (batch, in, rows) in the dtype of grid
  const void* base_weight;    // (out, in), or null for none; factors (batch, in) in the dtype of grid
  const void* bias;           // (out), or null for none
  const void* grid;           // (in, knots), in float64 for float64 tensors, else in float32
  void* y;                    // forward: (batch, out)
  void* gx;                   // (batch, in)
  void* gs;                   // (out, in, rows), or null if not needed; rows (batch, count, rows), aligned to 16 bytes
  void* ge;                   // gradient of base_weight, or the edge magnitude: (out, in), or null if not needed; base
                              // rows (batch, count)
  void* low;                  // what rounding takes from the rows in gs, as these, or null
  const void* table;          // workspace of an earlier kRows or kContract with the same in, grid and order, or null
  void* workspace;            // as many bytes as kan_cuda_workspace says, aligned to 256
  void* stream;
  int64_t batch, in, out, knots;
  int64_t first, count;  // the inputs of kRows
  int32_t dtype, degree, order, base, extrapolation, device;
};

}  // namespace kan_cuda

extern "C" {
// Bytes of scratch memory that `kan_cuda_launch` needs.
int64_t kan_cuda_workspace(int32_t operation, const kan_cuda::Problem* problem);
// Queues the operation on the stream without waiting for it; returns 0 or an error of the CUDA runtime.
int32_t kan_cuda_launch(int32_t operation, const kan_cuda::Problem* problem);
// Number of usable devices, or minus an error of the CUDA runtime.
int32_t kan_cuda_devices();
// Name and description of an error of the CUDA runtime.
const char* kan_cuda_error_name(int32_t error);
const char* kan_cuda_error_text(int32_t error);
}
