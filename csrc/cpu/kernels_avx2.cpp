// The kernels for AVX2. On architectures that don't have it this file is empty.
#if defined(__x86_64__)
#define KAN_NAME avx2
#define KAN_VECTOR_BYTES 32
#define KAN_REGISTERS 16
#include "cpu/instantiate.h"
#endif
