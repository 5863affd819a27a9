// The C interface of the CUDA kernels: kan_fast/ops/cuda.py calls it with ctypes.
#pragma once

#include "problem.h"

namespace kan_cuda {

using kan::Base;
using kan::Extrapolation;
using kan::Problem;
using kan::Type;

enum Operation : int32_t {
  kForward,
  kGradInput,
  kGradCoef,
  kEdgeMagnitude,
  kEdgeGradInput,
  kEdgeGradCoef,
  kRows,      // basis rows for matrix products: some inputs of the spline rows in gs and base rows in gb
  kContract,  // basis rows times the factors spline_weight and base_weight, in gx
};

}  // namespace kan_cuda

extern "C" {
// Bytes of a problem, by which a caller sees that its mirror of the struct has the same fields.
int64_t kan_cuda_problem_size();
// Bytes of scratch memory that `kan_cuda_launch` needs.
int64_t kan_cuda_workspace(int32_t operation, const kan::Problem* problem);
// Queues the operation on the stream without waiting for it; returns 0 or an error of the CUDA runtime.
int32_t kan_cuda_launch(int32_t operation, const kan::Problem* problem);
// Number of usable devices, or minus an error of the CUDA runtime.
int32_t kan_cuda_devices();
// Name and description of an error of the CUDA runtime.
const char* kan_cuda_error_name(int32_t error);
const char* kan_cuda_error_text(int32_t error);
}
