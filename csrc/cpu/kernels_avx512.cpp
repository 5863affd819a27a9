// The kernels for AVX-512. On architectures that don't have it this file is empty.
#if defined(__x86_64__)
#define KAN_NAME avx512
#define KAN_VECTOR_BYTES 64
#define KAN_REGISTERS 32
#include "cpu/instantiate.h"
#endif
