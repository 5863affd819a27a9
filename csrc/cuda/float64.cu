// The kernels for float64 tensors.
#include "launch.cuh"

template void kan_cuda::run<double>(kan_cuda::Operation, const kan_cuda::Problem&, kan_cuda::Pass&);
