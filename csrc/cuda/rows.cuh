// Kernels beside matrix products: they write out the rows of a layer, or multiply the rows by given factors.
//
// A block has 8 inputs and works on 32 samples at a time, a thread on one pair of them. The lanes of a warp are samples
// of one input, which share a table, but tensors are read and written with the lanes along the inputs, as they lie in
// memory. Numbers change from one arrangement to the other in shared memory: one number for each pair, or its rows.
#pragma once

#include "tiles.cuh"

namespace kan_cuda {

constexpr int kRowSamples = kWarp;
constexpr int kRowInputs = 8;
constexpr int kRowThreads = kRowSamples * kRowInputs;
template <class T>
constexpr int kRowPitch = kRowSamples + 16 / sizeof(T);  // neither direction has bank conflicts
template <class T>
constexpr int kRowPairs = kRowInputs * kRowPitch<T>;
constexpr size_t kRowShared = 27 * 1024;  // of a block; many such blocks fit into a multiprocessor

// How many blocks a multiprocessor should have registers for. Many are good, because blocks often wait for memory and
// at barriers. With more than these, registers spill on some architecture.
constexpr int resident_blocks(int of_float, int of_double, size_t size, int degree) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750  // 1024 threads
  of_float = 4;
#endif
  return (size > 4 ? of_double : of_float) - (degree > 3 ? 2 : 0);
}
template <class T, int K>
constexpr int kRowBlocks = resident_blocks(5, 3, sizeof(T), K);
template <class T, int K>
constexpr int kContractBlocks = resident_blocks(6, 3, sizeof(T), K);

// Neighbouring numbers that are read and written at once.
template <class T>
struct alignas(16) Pack {
  T value[kPack];
};

// The rows of a block in shared memory, those of a sample side by side as in the tensor (batch, inputs, rows).
template <class T>
struct RowTile {
  int rows, pitch;
  bool fits;   // else the tensor gets zeros first, then the rows that are not 0
  bool packs;  // samples begin and end at multiples of kPack

  RowTile(int64_t inputs, int rows) : rows(rows), pitch(kRowInputs * rows + kPack), packs(inputs * rows % kPack == 0) {
    fits = kBeside + shared_bytes<T>(kRowSamples * pitch) <= kRowShared;
  }
  __host__ __device__ int size() const { return fits ? kRowSamples * pitch : 0; }
  size_t bytes() const { return kBeside + shared_bytes<T>(size()); }

  static constexpr size_t kBeside = 2 * shared_bytes<T>(kRowPairs<T>);  // x and v
};

// A block's share of the samples and of the `count` inputs that are worked on, and its thread's place in it.
template <class T>
struct RowBlock {
  int64_t begin, end, i0;
  int inputs;
  const int i = threadIdx.x / kRowSamples, s = threadIdx.x % kRowSamples;            // the pair that it evaluates
  const int lane = threadIdx.x % kRowInputs, sample = threadIdx.x / kRowInputs;      // the pair that it reads or writes
  const int evaluated = i * kRowPitch<T> + s, moved = lane * kRowPitch<T> + sample;  // in shared memory

  __device__ RowBlock(int64_t batch, int64_t count, int64_t samples) {
    const unsigned tiles = ceil_div<int64_t>(count, kRowInputs);
    begin = int64_t(blockIdx.x / tiles) * samples;
    end = min(begin + samples, batch);
    i0 = int64_t(blockIdx.x % tiles) * kRowInputs;
    inputs = int(min(count - i0, int64_t(kRowInputs)));
  }
  // Where the moved pair of the first samples is in a tensor of `in` inputs, of which the first `before` have no block.
  __device__ int64_t index(int64_t in, int64_t before = 0) const { return (begin + sample) * in + before + i0 + lane; }
};

// The tensor of rows, and that of their rounding errors.
template <class T>
struct RowTarget {
  Target<T> high, low;

  __device__ void put(int64_t index, Pack<T> numbers, int count) const {
    high.put(index, numbers.value, count);
    if (!low.data) return;
#pragma unroll
    for (int n = 0; n < kPack; ++n) numbers.value[n] -= high.rounded(numbers.value[n]);
    low.put(index, numbers.value, count);
  }
};

template <class T>
__device__ void clear_rows(const RowTile<T>& rows, T* tile) {
#pragma unroll 1
  for (int e = threadIdx.x * kPack; e < rows.size(); e += kRowThreads * kPack)
    *reinterpret_cast<Pack<T>*>(tile + e) = {};
}

// Writes the rows that the tile holds, or zeros if it is too small; those of the thread's sample begin at `index`.
template <class T>
__device__ void store_rows(const RowBlock<T>& block, const RowTile<T>& rows, const T* tile, int64_t index,
                           const RowTarget<T>& target) {
  const int step = rows.packs ? kPack : 1, numbers = block.inputs * rows.rows;
#pragma unroll 1
  for (int e = block.lane * step; e < numbers; e += kRowInputs * step) {
    const T* from = tile + block.sample * rows.pitch + e;
    Pack<T> kept = {};
    if (rows.fits && rows.packs)
      kept = *reinterpret_cast<const Pack<T>*>(from);
    else if (rows.fits)
      kept.value[0] = *from;
    target.put(index + e, kept, step);
  }
}

// splines (batch, count, rows), their rounding errors `low`, and base (batch, count); each may be null. D: the dtype
// of all tensors.
template <class T, int K, Type D>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks<T, K>)
    rows_kernel(const Basis<T, K> f, const int64_t input, const int64_t count, const int64_t samples,
                const RowTile<T> rows, void* splines, void* low, void* base) {
  const RowBlock<T> block(f.batch, count, samples);
  const Input<T, K> own(f, input + min(block.i0 + block.i, count - 1));
  const Source<T> xs{f.x.data, D}, vs{f.v.data, D};
  const RowTarget<T> target{{splines, D}, {low, D}};
  SharedMemory shared;
  T* x = shared.take<T>(kRowPairs<T>);
  T* v = shared.take<T>(kRowPairs<T>);
  T* tile = shared.take<T>(rows.size());
  int64_t source = block.index(f.in, input), pair = block.index(count);
#pragma unroll 1
  for (int64_t b0 = block.begin; b0 < block.end; b0 += kRowSamples) {
    const int exist = int(min(block.end - b0, int64_t(kRowSamples)));
    const bool moves = block.lane < block.inputs && block.sample < exist;
    const bool evaluates = block.i < block.inputs && block.s < exist;
    if (moves) {
      x[block.moved] = xs[source];
      v[block.moved] = vs.data ? vs[source] : T(1);
    }
    if (splines) clear_rows(rows, tile);
    __syncthreads();  // x and v are there, and zeros
    Record<T, K> record = {};
    if (evaluates) {
      record = own.evaluate(x[block.evaluated], v[block.evaluated]);
      x[block.evaluated] = record.base;
      if (rows.fits && splines) {
        T* place = tile + block.s * rows.pitch + block.i * rows.rows + record.first;
#pragma unroll
        for (int r = 0; r <= K; ++r) place[r] = record.value[r];
      }
    }
    __syncthreads();  // base rows are where x was, and splines among the zeros
    if (splines && block.sample < exist) store_rows(block, rows, tile, (pair - block.lane) * rows.rows, target);
    if (base && moves) Target<T>{base, D}.put(pair, x[block.moved]);
    __syncthreads();  // the tile is free again; without a tile, the zeros are written
    if (splines && !rows.fits && evaluates) {
      const int64_t index = ((b0 + block.s) * count + block.i0 + block.i) * rows.rows + record.first;
#pragma unroll
      for (int r = 0; r <= K; ++r) target.put(index + r, {{record.value[r]}}, 1);
    }
    source += kRowSamples * f.in;
    pair += kRowSamples * count;
  }
}

// gx[b,i] = sum_r B_ir(x[b,i]) splines[b,i,r] + base(x[b,i]) base[b,i]. D: the dtype of x and gx.
template <class T, int K, Type D>
__global__ void __launch_bounds__(kRowThreads, kContractBlocks<T, K>)
    contract_kernel(const Basis<T, K> f, const int64_t samples, const T* __restrict__ splines,
                    const T* __restrict__ base, void* gx) {
  const RowBlock<T> block(f.batch, f.in, samples);
  const Input<T, K> own(f, min(block.i0 + block.i, f.in - 1));
  const Source<T> xs{f.x.data, D};
  const Target<T> results{gx, D};
  SharedMemory shared;
  T* x = shared.take<T>(kRowPairs<T>);
  T* values = shared.take<T>((K + 1) * kRowPairs<T>);  // [row - first][pair]
  T* bases = shared.take<T>(kRowPairs<T>);
  int* firsts = shared.take<int>(kRowPairs<T>);
  int64_t index = block.index(f.in);
#pragma unroll 1
  for (int64_t b0 = block.begin; b0 < block.end; b0 += kRowSamples) {
    const int exist = int(min(block.end - b0, int64_t(kRowSamples)));
    const bool moves = block.lane < block.inputs && block.sample < exist;
    if (moves) x[block.moved] = xs[index];
    __syncthreads();
    if (block.i < block.inputs && block.s < exist) {
      const Record<T, K> record = own.evaluate(x[block.evaluated], T(1));
#pragma unroll
      for (int r = 0; r <= K; ++r) values[r * kRowPairs<T> + block.evaluated] = record.value[r];
      bases[block.evaluated] = record.base;
      firsts[block.evaluated] = record.first;
    }
    __syncthreads();
    if (moves) {
      T sum = base ? bases[block.moved] * base[index] : T(0);
      if (splines) {
        const T* factors = splines + index * f.rows() + firsts[block.moved];
#pragma unroll
        for (int r = 0; r <= K; ++r) sum += values[r * kRowPairs<T> + block.moved] * factors[r];
      }
      results.put(index, sum);
    }
    index += kRowSamples * f.in;
  }
}

}  // namespace kan_cuda
