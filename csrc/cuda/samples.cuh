// Kernels with a result for each sample: forward and grad_input. Blocks share the sum over inputs or outputs.
#pragma once

#include "tiles.cuh"

namespace kan_cuda {

constexpr int kSampleWarps = 8;

// Forward: a warp keeps the sums of 8 samples in registers while tiles of coefficients pass by.
constexpr int kForwardSamples = 8;
constexpr int kForwardBlock = kForwardSamples * kSampleWarps;

template <class T, int K>
__global__ void __launch_bounds__(kSampleWarps* kWarp, 2)
    forward_kernel(const Basis<T, K> f, const Weights<T> c, const Source<T> bias, const Output<T> y,
                   const Windows windows, const int inputs, const int64_t inputs_per_part) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const unsigned tiles = ceil_div<int64_t>(f.batch, kForwardBlock);
  const int64_t b0 = int64_t(blockIdx.x % tiles) * kForwardBlock, o0 = int64_t(blockIdx.x / tiles) * kOutputs<T>;
  const int64_t begin = blockIdx.y * inputs_per_part, end = min(begin + inputs_per_part, f.in);
  const int rows = windows.rows(K);

  SharedMemory shared;
  auto* records = shared.take<Record<T, K>>(inputs * kForwardBlock);
  T* tile = shared.take<T>(inputs * (rows + 1) * kStride<T>);

  T sum[kForwardSamples][kLanes<T>] = {};
  for (int64_t i0 = begin; i0 < end; i0 += inputs) {
    for (int w = 0; w < windows.count; ++w) {
      __syncthreads();
      if (w == 0)
        for (int e = threadIdx.x; e < inputs * kForwardBlock; e += blockDim.x)
          records[e] = evaluate(f, b0 + e / inputs, i0 + e % inputs < end ? i0 + e % inputs : f.in);
      load_tile(c, i0, inputs, w * windows.owned, rows, o0, tile);
      __syncthreads();
      for (int i = 0; i < inputs; ++i) {
        const T* column = tile + i * (rows + 1) * kStride<T> + lane;
        T base[kLanes<T>];
#pragma unroll
        for (int j = 0; j < kLanes<T>; ++j) base[j] = column[rows * kStride<T> + j * kWarp];
#pragma unroll
        for (int s = 0; s < kForwardSamples; ++s) {
          const Record<T, K> record = records[(warp * kForwardSamples + s) * inputs + i];
          const int row = record.first - w * windows.owned;
          if (row < 0 || row >= windows.owned) continue;
#pragma unroll
          for (int j = 0; j < kLanes<T>; ++j)
            sum[s][j] += edge_value(record, column + row * kStride<T> + j * kWarp, base[j]);
        }
      }
    }
  }
#pragma unroll
  for (int s = 0; s < kForwardSamples; ++s)
#pragma unroll
    for (int j = 0; j < kLanes<T>; ++j) {
      const int64_t b = b0 + warp * kForwardSamples + s, o = o0 + lane + j * kWarp;
      if (b >= f.batch || o >= c.out) continue;
      if (bias.data && !y.shares) sum[s][j] += bias[o];
      y.put(blockIdx.y, b * c.out + o, sum[s][j]);
    }
}

// grad_input: a warp keeps the sums of 4 samples x 4 inputs while tiles of outputs pass by; its lanes are added last.
// For the edge magnitude, g[b,o] is replaced by sign(phi_oi(x[b,i])) * g[o,i] * mean, mean = 1 / batch.
constexpr int kGradSamples = 4;
constexpr int kGradInputs = 4;
constexpr int kGradBlock = kGradSamples * kSampleWarps;

template <class T, int K, bool kOfMagnitude>
__global__ void __launch_bounds__(kSampleWarps* kWarp, 2)
    grad_input_kernel(const Basis<T, K> slope, const Basis<T, K> f, const Weights<T> c, const Source<T> g,
                      const double mean, const Output<T> gx, const Windows windows, const int64_t outputs_per_part) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const unsigned tiles = ceil_div<int64_t>(slope.batch, kGradBlock);
  const int64_t b0 = int64_t(blockIdx.x % tiles) * kGradBlock, i0 = int64_t(blockIdx.x / tiles) * kGradInputs;
  const int64_t begin = blockIdx.y * outputs_per_part, end = min(begin + outputs_per_part, c.out);
  const int rows = windows.rows(K);

  SharedMemory shared;
  auto* slopes = shared.take<Record<T, K>>(kGradInputs * kGradBlock);
  auto* values = kOfMagnitude ? shared.take<Record<T, K>>(kGradInputs * kGradBlock) : nullptr;
  T* tile = shared.take<T>(kGradInputs * (rows + 1) * kStride<T>);

  for (int e = threadIdx.x; e < kGradInputs * kGradBlock; e += blockDim.x) {
    const int64_t b = b0 + e / kGradInputs, i = i0 + e % kGradInputs;
    slopes[e] = evaluate(slope, b, i);
    if (kOfMagnitude) values[e] = evaluate(f, b, i);
  }

  T sum[kGradSamples][kGradInputs] = {};
  for (int64_t o0 = begin; o0 < end; o0 += kOutputs<T>) {
    T factor[kGradSamples][kLanes<T>] = {}, edge[kGradInputs][kLanes<T>] = {};
#pragma unroll
    for (int j = 0; j < kLanes<T>; ++j) {
      const int64_t o = o0 + lane + j * kWarp;
      if (o >= end) continue;
      if (kOfMagnitude) {
#pragma unroll
        for (int i = 0; i < kGradInputs; ++i)
          if (i0 + i < c.in) edge[i][j] = g[o * c.in + i0 + i];
      } else {
#pragma unroll
        for (int s = 0; s < kGradSamples; ++s) {
          const int64_t b = b0 + warp * kGradSamples + s;
          if (b < slope.batch) factor[s][j] = g[b * c.out + o];
        }
      }
    }
    for (int w = 0; w < windows.count; ++w) {
      __syncthreads();
      load_tile(c, i0, kGradInputs, w * windows.owned, rows, o0, tile);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kGradInputs; ++i) {
        const T* column = tile + i * (rows + 1) * kStride<T> + lane;
        T base[kLanes<T>];
#pragma unroll
        for (int j = 0; j < kLanes<T>; ++j) base[j] = column[rows * kStride<T> + j * kWarp];
#pragma unroll
        for (int s = 0; s < kGradSamples; ++s) {
          const int e = (warp * kGradSamples + s) * kGradInputs + i;
          const Record<T, K> record = slopes[e];
          const int row = record.first - w * windows.owned;
          if (row < 0 || row >= windows.owned) continue;
#pragma unroll
          for (int j = 0; j < kLanes<T>; ++j) {
            const T* at = column + row * kStride<T> + j * kWarp;
            T weight = factor[s][j];
            if (kOfMagnitude) weight = sign(edge_value(values[e], at, base[j])) * edge[i][j];
            sum[s][i] += weight * edge_value(record, at, base[j]);
          }
        }
      }
    }
  }

  T mine = 0;
#pragma unroll
  for (int s = 0; s < kGradSamples; ++s)
#pragma unroll
    for (int i = 0; i < kGradInputs; ++i) {
      T total = sum[s][i];
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
      if (lane == s * kGradInputs + i) mine = total;
    }
  const int64_t b = b0 + warp * kGradSamples + lane / kGradInputs, i = i0 + lane % kGradInputs;
  if (lane < kGradSamples * kGradInputs && b < slope.batch && i < slope.in)
    gx.put(blockIdx.y, b * slope.in + i, kOfMagnitude ? T(mine * mean) : mine);
}

}  // namespace kan_cuda
