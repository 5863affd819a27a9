// What csrc/cuda uses of CUDA, with the same meaning on a CPU; see emulation.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

namespace emulation {

constexpr unsigned kWarp = 32;

// What a test may choose.
struct Settings {
  unsigned seed;
  int processors;
};
extern Settings settings;

// Where the running thread is.
extern dim3 thread_index, block_index, block_size;

void block_barrier();
// Replaces `value` by what lane `source` of the same warp has there. All lanes take part.
void exchange(void* value, size_t bytes, unsigned source);
// A piece of the block's shared memory, NaN until it is written.
void* shared_piece(size_t offset, size_t bytes);
void run(dim3 blocks, unsigned threads, size_t shared, const std::function<void()>& kernel);
[[noreturn]] void fail(const char* message);

}  // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define blockDim emulation::block_size

inline void __syncthreads() { emulation::block_barrier(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  emulation::exchange(&value, sizeof(T), threadIdx.x % emulation::kWarp ^ unsigned(mask));
  return value;
}

using std::max;
using std::min;

// Number formats

struct __half {
  unsigned short bits;
};
struct __nv_bfloat16 {
  unsigned short bits;
};
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }

inline float __half2float(__half value) {
  const unsigned sign = (value.bits & 0x8000u) << 16, exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  const float magnitude =
      exponent ? std::ldexp(float(1024 + fraction), int(exponent) - 25) : std::ldexp(float(fraction), -24);
  return sign ? -magnitude : magnitude;
}
inline __half __float2half_rn(float value) {
  const unsigned short sign = __float_as_uint(value) >> 16 & 0x8000;
  const float magnitude = std::fabs(value);
  if (magnitude != magnitude) return {0x7fff};
  if (magnitude >= 65520) return {static_cast<unsigned short>(sign | 0x7c00)};
  int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), -14) : -14;
  const float steps = std::nearbyint(std::ldexp(magnitude, 10 - exponent));  // ties to even
  return {static_cast<unsigned short>(sign + ((exponent + 14) << 10) + int(steps))};
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const unsigned bits = __float_as_uint(value);
  if (value != value) return {0x7fff};
  return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// The runtime

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInvalidDevice = 101 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };

inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = emulation::settings.processors, cudaSuccess;
}
inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
  }
  return "cudaErrorUnknown";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidDevice ? "invalid device ordinal" : cudaGetErrorName(error);
}

// What platform.h builds on it

namespace kan_cuda {

template <class T>
T approximate_reciprocal(T value) {
  return 1 / value;
}

class SharedMemory {
  size_t used_ = 0;

 public:
  template <class U>
  U* take(size_t count) {
    void* piece = emulation::shared_piece(used_, count * sizeof(U));
    used_ += (count * sizeof(U) + 15) / 16 * 16;
    return static_cast<U*>(piece);
  }
};

template <class... P>
cudaError_t launch_kernel(void (*kernel)(P...), dim3 blocks, int threads, size_t shared, cudaStream_t, P... arguments) {
  if (shared > 48 * 1024 || threads > 1024) return cudaErrorInvalidConfiguration;
  emulation::run(blocks, unsigned(threads), shared, [&] { kernel(arguments...); });
  return cudaSuccess;
}

}  // namespace kan_cuda
