// The kernels for AVX512; nothing for other architectures.
#if defined(__x86_64__)
#define KAN_NAME avx512
#define KAN_VECTOR_BYTES 64
#define KAN_REGISTERS 32
#include "cpu/instantiate.h"
#endif
