// The machine under the kernels, a GPU or its emulation on a CPU: number formats, shared memory and launches.
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

#include "interface.h"

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
constexpr size_t kSharedBytes = 48 * 1024;  // what a block may use on every device without asking for more

// The bits of a 16-bit number.
__device__ inline uint32_t half_bits(Type dtype, float value) {
  return dtype == Type::f16 ? __half_as_ushort(__float2half_rn(value))
                            : __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

__device__ inline float from_half_bits(Type dtype, uint32_t bits) {
  return dtype == Type::f16 ? __half2float(__ushort_as_half(static_cast<unsigned short>(bits)))
                            : __uint_as_float(bits << 16);
}

// A tensor of any storage type that is computed in T: float for float32, float16 and bfloat16, double for float64.
template <class T>
struct Source {
  const void* data;  // may be null
  Type dtype;

  __device__ T operator[](int64_t index) const;
};

template <>
__device__ inline double Source<double>::operator[](int64_t index) const {
  return static_cast<const double*>(data)[index];
}

template <>
__device__ inline float Source<float>::operator[](int64_t index) const {
  if (dtype == Type::f32) return static_cast<const float*>(data)[index];
  return from_half_bits(dtype, static_cast<const unsigned short*>(data)[index]);
}

constexpr int kPack = 4;

// A tensor to write, of the same kind; a number is rounded to the nearest, ties to even.
template <class T>
struct Target {
  void* data;  // may be null
  Type dtype;

  __device__ void put(int64_t index, T value) const;
  __device__ void put(int64_t index, const T (&values)[kPack], int count) const;  // 1 or, aligned, kPack of them
  __device__ T rounded(T value) const;                                            // the number that `put` writes
};

template <>
__device__ inline double Target<double>::rounded(double value) const {
  return value;
}

template <>
__device__ inline void Target<double>::put(int64_t index, double value) const {
  static_cast<double*>(data)[index] = value;
}

template <>
__device__ inline void Target<double>::put(int64_t index, const double (&values)[kPack], int count) const {
#pragma unroll
  for (int n = 0; n < kPack; ++n)  // constant indices keep the values in registers
    if (n < count) put(index + n, values[n]);
}

template <>
__device__ inline float Target<float>::rounded(float value) const {
  return dtype == Type::f32 ? value : from_half_bits(dtype, half_bits(dtype, value));
}

template <>
__device__ inline void Target<float>::put(int64_t index, float value) const {
  if (dtype == Type::f32)
    static_cast<float*>(data)[index] = value;
  else
    static_cast<unsigned short*>(data)[index] = static_cast<unsigned short>(half_bits(dtype, value));
}

template <>
__device__ inline void Target<float>::put(int64_t index, const float (&values)[kPack], int count) const {
  if (count == 1) return put(index, values[0]);
  if (dtype == Type::f32) {
    static_cast<float4*>(data)[uint64_t(index) / kPack] = {values[0], values[1], values[2], values[3]};
  } else {
    uint32_t pairs[2];
    for (int n = 0; n < 2; ++n) pairs[n] = half_bits(dtype, values[2 * n]) | half_bits(dtype, values[2 * n + 1]) << 16;
    static_cast<uint2*>(data)[uint64_t(index) / kPack] = {pairs[0], pairs[1]};
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
