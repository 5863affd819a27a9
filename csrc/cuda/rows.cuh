// Kernels that write the rows of a layer out, or multiply them with given factors: what matrix products leave to do.
#pragma once

#include "tiles.cuh"

namespace kan_cuda {

// A block works on a tile of samples and inputs. It evaluates with the lanes along the samples of one input, which
// share a table, and reads and writes with the lanes along the inputs, as the tensors lie in memory.
constexpr int kRowSamples = kWarp;
constexpr int kRowInputs = 16;
constexpr int kRowThreads = 256;
constexpr int kRowPitch = kRowSamples + 1;  // odd, so that neither direction has bank conflicts
constexpr int kRowTile = kRowInputs * kRowPitch;

// The records of a tile, [input][sample], each number in an array of its own.
template <class T, int K>
class RecordTile {
  T* values_;  // [row - first]
  T* base_;
  int* first_;

 public:
  static constexpr size_t kBytes =
      shared_bytes<T>((K + 1) * kRowTile) + 3 * shared_bytes<T>(kRowTile) + shared_bytes<int>(kRowTile);

  // Inputs are those from `input` on, of which the first `count` exist; samples those from b0 on.
  __device__ RecordTile(const Basis<T, K>& f, int64_t input, int64_t count, int64_t b0) {
    SharedMemory shared;
    values_ = shared.take<T>((K + 1) * kRowTile);
    base_ = shared.take<T>(kRowTile);
    first_ = shared.take<int>(kRowTile);
    T* x = shared.take<T>(kRowTile);
    T* v = shared.take<T>(kRowTile);
    for (int e = threadIdx.x; e < kRowInputs * kRowSamples; e += blockDim.x) {
      const int i = e % kRowInputs, s = e / kRowInputs;
      const bool exists = b0 + s < f.batch && i < count;
      const int64_t source = (b0 + s) * f.in + input + i;
      x[i * kRowPitch + s] = exists ? f.x[source] : T(0);
      v[i * kRowPitch + s] = exists && f.v.data ? f.v[source] : T(1);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < kRowInputs * kRowSamples; e += blockDim.x) {
      const int i = e / kRowSamples, at = i * kRowPitch + e % kRowSamples;
      if (i >= count) continue;
      const Record<T, K> record = evaluate(f, x[at], v[at], input + i);
#pragma unroll
      for (int r = 0; r <= K; ++r) values_[r * kRowTile + at] = record.value[r];
      base_[at] = record.base;
      first_[at] = record.first;
    }
    __syncthreads();
  }

  __device__ int first(int input, int sample) const { return first_[input * kRowPitch + sample]; }
  __device__ T base(int input, int sample) const { return base_[input * kRowPitch + sample]; }
  __device__ T value(int input, int sample, int r) const { return values_[r * kRowTile + input * kRowPitch + sample]; }
  __device__ T row(int input, int sample, int row) const {
    const unsigned r = row - first(input, sample);
    return r <= K ? value(input, sample, int(r)) : T(0);
  }
};

// splines (batch, count, rows), what rounding takes from them, and base (batch, count); each may be null.
template <class T, int K>
__global__ void __launch_bounds__(kRowThreads)
    rows_kernel(const Basis<T, K> f, const int64_t input, const int64_t count, const Target<T> splines,
                const Target<T> low, const Target<T> base) {
  const unsigned tiles = ceil_div<int64_t>(count, kRowInputs);
  const int64_t b0 = int64_t(blockIdx.x / tiles) * kRowSamples, i0 = int64_t(blockIdx.x % tiles) * kRowInputs;
  const RecordTile<T, K> tile(f, input + i0, count - i0, b0);
  const int inputs = int(min(count - i0, int64_t(kRowInputs))), samples = int(min(f.batch - b0, int64_t(kRowSamples)));
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp, rows = f.rows();
  const int64_t pitch = count * rows, begin = b0 * pitch + i0 * rows;

  // a lane writes neighbouring numbers of a sample at once, where these are aligned
  static_assert(kRowInputs % kPack == 0, "a tile begins where samples do, modulo kPack");
  const int width = inputs * rows, pack = pitch % kPack == 0 ? kPack : 1;
  for (int e = lane * pack; splines.data && e < width; e += kWarp * pack) {
    for (int s = warp; s < samples; s += warps) {
      const int64_t at = begin + s * pitch + e;
      T kept[kPack] = {};
      int i = e / rows, row = e - i * rows;
#pragma unroll
      for (int n = 0; n < kPack; ++n) {
        if (n >= pack) break;
        kept[n] = tile.row(i, s, row);
        if (++row == rows) row = 0, ++i;
      }
      splines.put(at, kept, pack);
      if (low.data) {
#pragma unroll
        for (int n = 0; n < kPack; ++n) kept[n] -= splines.rounded(kept[n]);
        low.put(at, kept, pack);
      }
    }
  }
  for (int e = threadIdx.x; base.data && e < samples * inputs; e += blockDim.x) {
    const int i = e % inputs, s = e / inputs;
    base.put((b0 + s) * count + i0 + i, tile.base(i, s));
  }
}

// gx[b,i] = sum_r B_ir(x[b,i]) splines[b,i,r] + base(x[b,i]) base[b,i]
template <class T, int K>
__global__ void __launch_bounds__(kRowThreads)
    contract_kernel(const Basis<T, K> f, const Source<T> splines, const Source<T> base, const Target<T> gx) {
  const unsigned tiles = ceil_div<int64_t>(f.in, kRowInputs);
  const int64_t b0 = int64_t(blockIdx.x / tiles) * kRowSamples, i0 = int64_t(blockIdx.x % tiles) * kRowInputs;
  const RecordTile<T, K> tile(f, i0, f.in - i0, b0);
  for (int e = threadIdx.x; e < kRowInputs * kRowSamples; e += blockDim.x) {
    const int i = e % kRowInputs, s = e / kRowInputs;
    if (b0 + s >= f.batch || i0 + i >= f.in) continue;
    const int64_t at = (b0 + s) * f.in + i0 + i;
    T sum = base.data ? tile.base(i, s) * base[at] : T(0);
    if (splines.data) {
      const int64_t factors = at * f.rows() + tile.first(i, s);
#pragma unroll
      for (int r = 0; r <= K; ++r) sum += tile.value(i, s, r) * splines[factors + r];
    }
    gx.put(at, sum);
  }
}

}  // namespace kan_cuda
