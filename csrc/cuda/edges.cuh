// Kernels with a result for each edge: grad_coef, edge_magnitude and its gradient. Blocks share the sum over the batch.
//
// A warp works on one input, its lanes on the outputs, so that every accumulator in shared memory has one owner.
#pragma once

#include "tiles.cuh"

namespace kan_cuda {

constexpr int kEdgeInputs = 4;    // and warps
constexpr int kEdgeSamples = 32;  // per step
constexpr int kEdgeGroup = 8;

enum class EdgeSum {
  kCoef,           // gc[o,i,r] = sum_b B_ir(x[b,i]) g[b,o]
  kMagnitude,      // m[o,i] = sum_b |phi_oi(x[b,i])| * mean, mean = 1 / batch
  kMagnitudeCoef,  // gc[o,i,r] = sum_b B_ir(x[b,i]) sign(phi_oi(x[b,i])) g[o,i] * mean
};

// The rows of a tile in shared memory. If there are several windows, a tile reaches `degree` rows beyond both ends of
// the rows that its window owns. So it holds all rows of a record of which it owns one. It writes only the rows it
// owns.
struct EdgeTile {
  int row0, rows, pad;

  __host__ __device__ EdgeTile(const Windows& w, int index, int degree, int all_rows)
      : row0(index * w.owned - (w.count > 1 ? degree : 0)),
        rows(w.count > 1 ? w.owned + 2 * degree : all_rows),
        pad(w.count > 1 ? degree : 0) {}
};

// Adds the sums of one level to those of the next, and clears them. The error of a sum grows with its number of terms,
// so long sums are sums of sums.
template <class T, int N>
__device__ void carry(T (&from)[N], T (&to)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) to[j] += from[j], from[j] = 0;
}

template <class T, int K, EdgeSum E>
__global__ void __launch_bounds__(kEdgeInputs* kWarp, 4)
    edge_kernel(const Basis<T, K> f, const Weights<T> c, const Source<T> g, const double mean, const Output<T> gs,
                const Output<T> ge, const Windows windows, const int64_t samples_per_part) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const unsigned tiles = ceil_div<int64_t>(f.in, kEdgeInputs);
  const int64_t i0 = int64_t(blockIdx.x % tiles) * kEdgeInputs, o0 = int64_t(blockIdx.x / tiles) * kOutputs<T>;
  const int window = blockIdx.z;
  const int64_t begin = blockIdx.y * samples_per_part, end = min(begin + samples_per_part, f.batch);
  const EdgeTile t(windows, window, K, c.rows);
  const int size = (t.rows + 1) * kStride<T>;

  SharedMemory shared;
  auto* records = shared.take<Record<T, K>>(kEdgeInputs * kEdgeSamples);
  T* factors = E == EdgeSum::kCoef ? shared.take<T>(kEdgeSamples * kOutputs<T>) : nullptr;
  T* sums = E != EdgeSum::kMagnitude ? shared.take<T>(kEdgeInputs * size) : nullptr;
  T* tile = E != EdgeSum::kCoef ? shared.take<T>(kEdgeInputs * size) : nullptr;

  if (sums)
    for (int e = threadIdx.x; e < kEdgeInputs * size; e += blockDim.x) sums[e] = 0;
  if (tile) load_tile(c, i0, kEdgeInputs, t.row0, t.rows, o0, tile);

  const int column = warp * size + lane;
  T base_sum[kLanes<T>] = {};
  for (int64_t b0 = begin; b0 < end; b0 += kEdgeSamples) {
    const int samples = int(min(end - b0, int64_t(kEdgeSamples)));
    __syncthreads();
    for (int e = threadIdx.x; e < kEdgeInputs * samples; e += blockDim.x)
      records[e] = evaluate(f, b0 + e / kEdgeInputs, i0 + e % kEdgeInputs);
    if (factors)
      for (int e = threadIdx.x; e < samples * kOutputs<T>; e += blockDim.x) {
        const int64_t b = b0 + e / kOutputs<T>, o = o0 + e % kOutputs<T>;
        factors[e] = o < c.out ? g[b * c.out + o] : T(0);
      }
    __syncthreads();
    T step_sum[kLanes<T>] = {}, group_sum[kLanes<T>] = {};
    for (int s = 0; s < samples; ++s) {
      if (s % kEdgeGroup == 0) carry(group_sum, step_sum);
      const Record<T, K> record = records[s * kEdgeInputs + warp];
      const int row = record.first - t.row0;
      if (row < 0 || row + K >= t.rows) continue;
      const bool owned = row >= t.pad && row - t.pad < windows.owned;
#pragma unroll
      for (int j = 0; j < kLanes<T>; ++j) {
        const int at = column + row * kStride<T> + j * kWarp;
        T weight = 0;
        if constexpr (E == EdgeSum::kCoef) {
          weight = factors[s * kOutputs<T> + lane + j * kWarp];
        } else {
          const T phi = edge_value(record, tile + at, tile[column + t.rows * kStride<T> + j * kWarp]);
          weight = E == EdgeSum::kMagnitude ? fabs(phi) : sign(phi);
        }
        if constexpr (E != EdgeSum::kMagnitude) {
#pragma unroll
          for (int r = 0; r <= K; ++r) sums[at + r * kStride<T>] += record.value[r] * weight;
          weight *= record.base;
        }
        group_sum[j] += owned ? weight : T(0);
      }
    }
    carry(group_sum, step_sum);
    carry(step_sum, base_sum);
  }

  // The factor is in double precision, so that the product is rounded once.
  const auto factor = [&](int64_t edge) { return E == EdgeSum::kMagnitude ? mean : g[edge] * mean; };

  // Each window has its own share of the sum of an edge.
  const int64_t part = int64_t(blockIdx.y) * windows.count + window;
#pragma unroll
  for (int j = 0; j < kLanes<T>; ++j) {
    const int64_t i = i0 + warp, o = o0 + lane + j * kWarp;
    if (!ge.result.data || i >= f.in || o >= c.out) continue;
    const int64_t edge = o * c.in + i;
    ge.put(part, edge, E == EdgeSum::kCoef ? base_sum[j] : T(base_sum[j] * factor(edge)));
  }
  if (E == EdgeSum::kMagnitude || !gs.result.data) return;
  __syncthreads();
  for (int e = lane; e < kEdgeInputs * windows.owned; e += kWarp) {
    const int row = e % windows.owned + window * windows.owned;
    const int64_t i = e / windows.owned;
    if (i0 + i >= f.in || row >= c.rows) continue;
    for (int o = warp; o < kOutputs<T> && o0 + o < c.out; o += kEdgeInputs) {
      const int64_t edge = (o0 + o) * c.in + i0 + i;
      const T sum = sums[i * size + (row - t.row0) * kStride<T> + o];
      gs.put(blockIdx.y, edge * c.rows + row, E == EdgeSum::kCoef ? sum : T(sum * factor(edge)));
    }
  }
}

}  // namespace kan_cuda
