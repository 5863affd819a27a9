// The C interface: from a problem to the kernels of its dtype, on its device.
#include "launch.cuh"

namespace kan_cuda {
namespace {

void run_dtype(Operation operation, const Problem& p, Pass& pass) {
  return p.dtype == Type::f64 ? run<double>(operation, p, pass) : run<float>(operation, p, pass);
}

}  // namespace
}  // namespace kan_cuda

int64_t kan_cuda_problem_size() { return sizeof(kan::Problem); }

int64_t kan_cuda_workspace(int32_t operation, const kan::Problem* problem) {
  kan_cuda::Pass pass(nullptr, nullptr, false);
  kan_cuda::run_dtype(kan_cuda::Operation(operation), *problem, pass);
  return int64_t(pass.used());
}

int32_t kan_cuda_launch(int32_t operation, const kan::Problem* problem) {
  int previous = 0;
  if (const cudaError_t status = cudaGetDevice(&previous)) return status;
  if (const cudaError_t status = cudaSetDevice(problem->device)) return status;
  kan_cuda::Pass pass(problem->workspace, problem->stream, true);
  kan_cuda::run_dtype(kan_cuda::Operation(operation), *problem, pass);
  cudaSetDevice(previous);
  return pass.status();
}

int32_t kan_cuda_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  return status == cudaSuccess ? count : -int32_t(status);
}

const char* kan_cuda_error_name(int32_t error) { return cudaGetErrorName(cudaError_t(error)); }
const char* kan_cuda_error_text(int32_t error) { return cudaGetErrorString(cudaError_t(error)); }
