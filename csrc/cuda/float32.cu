// The kernels that compute in float32: for float32, float16 and bfloat16 tensors.
#include "launch.cuh"

template void kan_cuda::run<float>(kan_cuda::Operation, const kan_cuda::Problem&, kan_cuda::Pass&);
