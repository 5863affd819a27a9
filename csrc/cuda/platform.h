// What the kernels ask of the machine: number formats, shared memory and launches, on a GPU or emulated on a CPU.
#pragma once

#ifdef KAN_EMULATION
#include "emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "problem.h"

namespace kan_cuda {

#ifndef KAN_EMULATION
__device__ inline double approximate_reciprocal(double value) {
  double result;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(result) : "d"(value));
  return result;
}
__device__ inline float approximate_reciprocal(float value) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
#endif

constexpr int kWarp = 32;
constexpr size_t kSharedBytes = 48 * 1024;  // what every device gives a block unasked

// A tensor of any storage type that is computed in T: float for float32, float16 and bfloat16, double for float64.
template <class T>
struct Source {
  const void* data;  // may be null
  int32_t dtype;

  __device__ T operator[](int64_t index) const;
};

template <>
__device__ inline double Source<double>::operator[](int64_t index) const {
  return static_cast<const double*>(data)[index];
}

template <>
__device__ inline float Source<float>::operator[](int64_t index) const {
  if (dtype == kFloat32) return static_cast<const float*>(data)[index];
  const unsigned short bits = static_cast<const unsigned short*>(data)[index];
  return dtype == kFloat16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(uint32_t(bits) << 16);
}

// A tensor to write, of the same kind; a number is rounded to the nearest, ties to even.
template <class T>
struct Target {
  void* data;  // may be null
  int32_t dtype;

  __device__ void put(int64_t index, T value) const;
};

template <>
__device__ inline void Target<double>::put(int64_t index, double value) const {
  static_cast<double*>(data)[index] = value;
}

template <>
__device__ inline void Target<float>::put(int64_t index, float value) const {
  if (dtype == kFloat32) {
    static_cast<float*>(data)[index] = value;
  } else {
    const unsigned short half = __half_as_ushort(__float2half_rn(value));
    const unsigned short bfloat16 = __bfloat16_as_ushort(__float2bfloat16_rn(value));
    static_cast<unsigned short*>(data)[index] = dtype == kFloat16 ? half : bfloat16;
  }
}

// 1 / value of a normal number, without the slow path of a division: that is a call, around which registers spill.
template <class T>
__device__ inline T reciprocal(T value) {
  T r = approximate_reciprocal(value);  // 20 bits or more
  r = fma(r, fma(-value, r, T(1)), r);
  return fma(r, fma(-value, r, T(1)), r);
}

__device__ inline float next_up(float value) { return nextafterf(value, INFINITY); }
__device__ inline double next_up(double value) { return nextafter(value, double(INFINITY)); }

template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// Size that `count` numbers take in shared memory.
template <class U>
__host__ __device__ constexpr size_t shared_bytes(size_t count) {
  return ceil_div<size_t>(count * sizeof(U), 16) * 16;
}

#ifndef KAN_EMULATION

// Hands out the block's dynamic shared memory piece by piece, each aligned to 16 bytes.
class SharedMemory {
  size_t used_ = 0;

 public:
  template <class U>
  __device__ U* take(size_t count) {
    extern __shared__ __align__(16) unsigned char memory[];
    U* piece = reinterpret_cast<U*>(memory + used_);
    used_ += shared_bytes<U>(count);
    return piece;
  }
};

template <class... P>
cudaError_t launch_kernel(void (*kernel)(P...), dim3 blocks, int threads, size_t shared, cudaStream_t stream,
                          P... arguments) {
  void* pointers[] = {&arguments...};
  const void* function = reinterpret_cast<const void*>(kernel);
  const cudaError_t status = cudaLaunchKernel(function, blocks, dim3(threads), pointers, shared, stream);
  if (status != cudaSuccess) cudaGetLastError();  // it is reported here, not to whoever asks next
  return status;
}

#endif

}  // namespace kan_cuda
