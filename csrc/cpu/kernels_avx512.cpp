// The kernels for AVX512.
#define KAN_NAME avx512
#define KAN_VECTOR_BYTES 64
#define KAN_REGISTERS 32
#include "instantiate.h"
