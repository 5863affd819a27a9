// The tile that a block keeps in shared memory, and the two-stage sum of results that several blocks share.
#pragma once

#include "basis.cuh"

namespace kan_cuda {

// A block works on kLanes<T> * 32 outputs: lane l of every warp on outputs l, l + 32, ...
template <class T>
constexpr int kLanes = 8 / sizeof(T);
template <class T>
constexpr int kOutputs = kLanes<T> * kWarp;
template <class T>
constexpr int kStride = kOutputs<T> + 1;  // odd: rows and columns of a tile are both free of bank conflicts

// Rows that pass through shared memory at a time. A window owns the records whose `first` is one of `owned` rows; the
// rows of those reach `degree` rows further.
struct Windows {
  int owned, count;

  __host__ __device__ int rows(int degree) const { return owned + degree; }
};

// Coefficients of all edges: rows of splines, and below them the base function.
template <class T>
struct Weights {
  Source<T> spline;  // (out, in, rows), or null
  Source<T> base;    // (out, in), or null
  int64_t in, out;
  int rows;
};

// Copies rows [row0, row0 + rows) and the base row of `inputs` inputs and kOutputs outputs; what does not exist is 0.
// The tile is [input][row, base][output], out of (out, in, row): neighbouring lanes read neighbouring rows.
template <class T>
__device__ void load_tile(const Weights<T>& c, int64_t i0, int inputs, int row0, int rows, int64_t o0, T* tile) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  for (int e = lane; e < inputs * rows; e += kWarp) {
    const int i = e / rows, r = e % rows, row = row0 + r;
    const bool exists = c.spline.data && i0 + i < c.in && row >= 0 && row < c.rows;
    const int64_t source = (o0 * c.in + i0 + i) * c.rows + row;
    T* target = tile + (i * (rows + 1) + r) * kStride<T>;
#pragma unroll 4
    for (int o = warp; o < kOutputs<T>; o += warps)
      target[o] = exists && o0 + o < c.out ? c.spline[source + o * c.in * c.rows] : T(0);
  }
  for (int e = threadIdx.x; e < inputs * kOutputs<T>; e += blockDim.x) {
    const int i = e % inputs, o = e / inputs;
    const bool exists = c.base.data && i0 + i < c.in && o0 + o < c.out;
    tile[(i * (rows + 1) + rows) * kStride<T> + o] = exists ? c.base[(o0 + o) * c.in + i0 + i] : T(0);
  }
}

// sum_r c[row(r)][o] B_r(x) + c[base][o] base(x) for one output; `column` points to c[first][o], `base` is c[base][o].
template <class T, int K>
__device__ T edge_value(const Record<T, K>& record, const T* column, T base) {
  T sum = record.base * base;
#pragma unroll
  for (int r = 0; r <= K; ++r) sum += record.value[r] * column[r * kStride<T>];
  return sum;
}

// 1, -1, or the number itself if it is 0 or NaN.
template <class T>
__device__ T sign(T value) {
  return value > 0 ? T(1) : value < 0 ? T(-1) : value;
}

// Where a block leaves its share of a sum: in the result itself if there are no other shares, else in the workspace,
// for reduce_kernel to add. There are no atomics, so the same input always gives the same bits.
template <class T>
struct Output {
  Target<T> result;
  T* shares;  // (parts, size), or null
  int64_t size;

  __device__ void put(int64_t part, int64_t index, T value) const {
    if (shares)
      shares[part * size + index] = value;
    else
      result.put(index, value);
  }
};

// result[n] = sum_part shares[part][n] + bias[n % columns]
template <class T>
__global__ void __launch_bounds__(256)
    reduce_kernel(const Output<T> output, const int64_t parts, const Source<T> bias, const int64_t columns) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= output.size) return;
  double sum = bias.data ? bias[index % columns] : T(0);  // double, because there may be many parts
  for (int64_t part = 0; part < parts; ++part) sum += output.shares[part * output.size + index];
  output.result.put(index, T(sum));
}

}  // namespace kan_cuda
