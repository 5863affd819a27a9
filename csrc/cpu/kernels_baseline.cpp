// The kernels for any processor: 128-bit vectors, as SSE2 and 64-bit Arm have them.
#define KAN_NAME baseline
#define KAN_VECTOR_BYTES 16
#if defined(__aarch64__)
#define KAN_REGISTERS 32
#else
#define KAN_REGISTERS 16
#endif
#include "cpu/instantiate.h"
