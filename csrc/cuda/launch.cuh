// Host side of the kernels for one compute type and degree: tile sizes, workspace, launches.
#pragma once

#include <algorithm>
#include <type_traits>

#include "edges.cuh"
#include "rows.cuh"
#include "samples.cuh"

namespace kan_cuda {

// One pass over an operation: it launches the kernels, or only measures the memory that they need.
class Pass {
  char* memory_;
  cudaStream_t stream_;
  bool launches_;
  size_t used_ = 0;
  cudaError_t status_ = cudaSuccess;

 public:
  Pass(void* memory, void* stream, bool launches)
      : memory_(static_cast<char*>(memory)), stream_(static_cast<cudaStream_t>(stream)), launches_(launches) {}

  size_t used() const { return used_; }
  cudaError_t status() const { return status_; }

  template <class U>
  U* take(int64_t count) {
    U* piece = reinterpret_cast<U*>(memory_ + used_);
    used_ += ceil_div<size_t>(size_t(count) * sizeof(U), 256) * 256;
    return memory_ ? piece : nullptr;
  }

  template <class... P, class... A>
  void launch(void (*kernel)(P...), int64_t x, int64_t y, int64_t z, int threads, size_t shared, A... arguments) {
    if (!launches_ || status_ != cudaSuccess || x * y * z == 0) return;
    if (x > INT32_MAX || y > 65535 || z > 65535) {
      status_ = cudaErrorInvalidConfiguration;
      return;
    }
    const dim3 blocks(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
    status_ = launch_kernel<P...>(kernel, blocks, threads, shared, stream_, arguments...);
  }
};

inline int processors(int device) {
  int count = 1;
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

// Cuts a sum of `steps` steps into parts, each computed by `blocks` blocks: as many parts as fill the device, but no
// more than there are steps, nor than 1024.
struct Split {
  int64_t per_part, parts;

  Split(int64_t steps, int64_t blocks, int device) {
    const int64_t wanted = ceil_div<int64_t>(2 * processors(device), std::max<int64_t>(blocks, 1));
    per_part = std::max<int64_t>(1, ceil_div(steps, std::clamp<int64_t>(wanted, 1, 1024)));
    parts = std::max<int64_t>(1, ceil_div(steps, per_part));
  }
};

// How many samples a block of rows.cuh takes. Beginning a block costs as much as some hundred samples, so a block takes
// many of them if enough blocks remain to fill the device.
struct RowShare {
  int64_t samples, blocks;

  RowShare(int64_t batch, int64_t count, int device) {
    const int64_t tiles = ceil_div<int64_t>(batch, kRowSamples), columns = ceil_div<int64_t>(count, kRowInputs);
    const int64_t fit = tiles * columns / (16 * processors(device));
    samples = kRowSamples * std::clamp<int64_t>(fit, 1, 8);
    blocks = columns * ceil_div(batch, samples);
  }
};

template <class T, int K>
class Layer {
  using Entry = Record<T, K>;

  const Problem& p_;
  Pass& pass_;
  Pass given_;  // memory with the tables of an earlier operation
  const int rows_;
  const Weights<T> weights_;

  const double mean_ = p_.batch > 0 ? 1.0 / double(p_.batch) : 0.0;

  Source<T> in(const void* data) const { return {data, p_.dtype}; }

  // call(dtype of the tensors, as a constant)
  template <class Call>
  void with_dtype(Call call) const {
    if constexpr (sizeof(T) == 8)
      call(std::integral_constant<Type, Type::f64>());
    else if (p_.dtype == Type::f16)
      call(std::integral_constant<Type, Type::f16>());
    else if (p_.dtype == Type::bf16)
      call(std::integral_constant<Type, Type::bf16>());
    else
      call(std::integral_constant<Type, Type::f32>());
  }

  Basis<T, K> basis(const void* v, int order) {
    Pass& memory = p_.table ? given_ : pass_;
    const int knots = int(p_.knots), cells = knots + 1;
    int stride = 1;
    while (stride < cells) stride *= 2;
    T* breaks = memory.take<T>(p_.in * stride);
    auto* powers = memory.take<Coefficients<T, K>>(p_.in * (K + 1) * cells);
    auto* frames = memory.take<Frame<T>>(p_.in * cells);
    T* silu = memory.take<T>(2 * order);
    double* scratch = memory.take<double>(2 * (order + 1));
    const bool bounded = p_.extrapolation != Extrapolation::linear || order > 0;
    const Basis<T, K> f{in(p_.x), in(v),  breaks,  powers, frames, silu, p_.batch, p_.in,
                        knots,    stride, p_.base, order,  true,   true, bounded};
    if (!p_.table)
      pass_.launch(table_kernel<T, K>, p_.in, 1, 1, kWarp, 0, static_cast<const T*>(p_.grid), f, p_.extrapolation,
                   scratch);
    return f;
  }

  // The basis that multiplies the weights: rows without weights are left out.
  Basis<T, K> weighted_basis(const void* v, int order) {
    Basis<T, K> f = basis(v, order);
    f.has_spline = p_.spline_weight;
    f.has_base = p_.base_weight;
    return f;
  }

  Output<T> output(void* result, int64_t size, int64_t parts) {
    return {{result, p_.dtype}, result && parts > 1 ? pass_.take<T>(size * parts) : nullptr, size};
  }

  void reduce(const Output<T>& output, int64_t parts, const Source<T>& bias = {}, int64_t columns = 1) {
    if (output.result.data && parts > 1)
      pass_.launch(reduce_kernel<T>, ceil_div<int64_t>(output.size, 256), 1, 1, 256, 0, output, parts, bias, columns);
  }

  // The windows of records for tiles of `inputs` inputs, if `taken` bytes of shared memory hold something else.
  Windows record_windows(int inputs, size_t taken) const {
    const int fit = int((kSharedBytes - taken) / (inputs * kStride<T> * sizeof(T))) - 1;  // and the base row
    if (rows_ <= fit) return {rows_ - K, 1};
    return {fit - K, ceil_div(rows_ - K, fit - K)};
  }

  template <EdgeSum E>
  void edges(const Basis<T, K>& f, void* row_sums, void* edge_sums) {
    const size_t records = shared_bytes<Entry>(kEdgeInputs * kEdgeSamples);
    const size_t factors = E == EdgeSum::kCoef ? shared_bytes<T>(kEdgeSamples * kOutputs<T>) : 0;
    const int tiles = E == EdgeSum::kMagnitudeCoef ? 2 : 1;
    const int row = tiles * kEdgeInputs * kStride<T> * sizeof(T);
    const int fit = int((kSharedBytes - records - factors) / row) - 2;
    Windows w{rows_, 1};
    if (rows_ > fit) w = {fit - 2 * K, ceil_div(rows_, fit - 2 * K)};
    const int held = EdgeTile(w, 0, K, rows_).rows + 1;
    const size_t shared = records + factors + tiles * shared_bytes<T>(kEdgeInputs * held * kStride<T>);

    const int64_t blocks = ceil_div<int64_t>(p_.in, kEdgeInputs) * ceil_div<int64_t>(p_.out, kOutputs<T>);
    const Split split(ceil_div<int64_t>(p_.batch, kEdgeSamples), blocks * w.count, p_.device);
    const Output<T> rows = output(row_sums, p_.out * p_.in * rows_, split.parts);
    const Output<T> edges = output(edge_sums, p_.out * p_.in, split.parts * w.count);
    pass_.launch(edge_kernel<T, K, E>, blocks, split.parts, w.count, kEdgeInputs * kWarp, shared, f, weights_, in(p_.g),
                 mean_, rows, edges, w, split.per_part * kEdgeSamples);
    reduce(rows, split.parts);
    reduce(edges, split.parts * w.count);
  }

  template <bool kOfMagnitude>
  void grad_input(int order) {
    const Basis<T, K> slope = weighted_basis(nullptr, order);
    const Basis<T, K> f = kOfMagnitude ? weighted_basis(nullptr, 0) : slope;
    const size_t records = (kOfMagnitude ? 2 : 1) * shared_bytes<Entry>(kGradInputs * kGradBlock);
    const Windows w = record_windows(kGradInputs, records);
    const size_t shared = records + shared_bytes<T>(kGradInputs * (w.rows(K) + 1) * kStride<T>);
    const int64_t blocks = ceil_div<int64_t>(p_.batch, kGradBlock) * ceil_div<int64_t>(p_.in, kGradInputs);
    const Split split(ceil_div<int64_t>(p_.out, kOutputs<T>), blocks, p_.device);
    const Output<T> gx = output(p_.gx, p_.batch * p_.in, split.parts);
    pass_.launch(grad_input_kernel<T, K, kOfMagnitude>, blocks, split.parts, 1, kSampleWarps * kWarp, shared, slope, f,
                 weights_, in(p_.g), mean_, gx, w, split.per_part * kOutputs<T>);
    reduce(gx, split.parts);
  }

 public:
  Layer(const Problem& p, Pass& pass)
      : p_(p),
        pass_(pass),
        given_(const_cast<void*>(p.table), p.stream, false),
        rows_(int(p.knots) - K - 1),
        weights_{in(p.spline_weight), in(p.base_weight), p.in, p.out, rows_} {}

  void forward() {
    const Basis<T, K> f = weighted_basis(p_.v, p_.order);
    auto shared = [&](int inputs, int rows) {
      return shared_bytes<Entry>(inputs * kForwardBlock) + shared_bytes<T>(inputs * (rows + 1) * kStride<T>);
    };
    int inputs = 8;
    while (inputs > 1 && shared(inputs, rows_) > kSharedBytes) inputs /= 2;
    const Windows w = record_windows(inputs, shared_bytes<Entry>(inputs * kForwardBlock));
    const int64_t blocks = ceil_div<int64_t>(p_.batch, kForwardBlock) * ceil_div<int64_t>(p_.out, kOutputs<T>);
    const Split split(ceil_div<int64_t>(p_.in, inputs), blocks, p_.device);
    const Output<T> y = output(p_.y, p_.batch * p_.out, split.parts);
    pass_.launch(forward_kernel<T, K>, blocks, split.parts, 1, kSampleWarps * kWarp, shared(inputs, w.rows(K)), f,
                 weights_, in(p_.bias), y, w, inputs, split.per_part * inputs);
    reduce(y, split.parts, in(p_.bias), p_.out);
  }

  void rows() {
    Basis<T, K> f = basis(p_.v, p_.order);
    f.has_spline = p_.gs;
    f.has_base = p_.gb;
    const RowShare share(p_.batch, p_.count, p_.device);
    const RowTile<T> tile(p_.count, p_.gs ? rows_ : 0);
    with_dtype([&](auto dtype) {
      pass_.launch(rows_kernel<T, K, decltype(dtype)::value>, share.blocks, 1, 1, kRowThreads, tile.bytes(), f,
                   p_.first, p_.count, share.samples, tile, p_.gs, p_.low, p_.gb);
    });
  }

  void contract() {
    const Basis<T, K> f = weighted_basis(nullptr, p_.order);
    const RowShare share(p_.batch, p_.in, p_.device);
    const size_t shared =
        2 * shared_bytes<T>(kRowPairs<T>) + shared_bytes<T>((K + 1) * kRowPairs<T>) + shared_bytes<int>(kRowPairs<T>);
    with_dtype([&](auto dtype) {
      pass_.launch(contract_kernel<T, K, decltype(dtype)::value>, share.blocks, 1, 1, kRowThreads, shared, f,
                   share.samples, static_cast<const T*>(p_.spline_weight), static_cast<const T*>(p_.base_weight),
                   p_.gx);
    });
  }

  void run(Operation operation) {
    switch (operation) {
      case kForward:
        return forward();
      case kGradInput:
        return grad_input<false>(p_.order);
      case kGradCoef:
        return edges<EdgeSum::kCoef>(basis(p_.v, p_.order), p_.gs, p_.gb);
      case kEdgeMagnitude:
        return edges<EdgeSum::kMagnitude>(weighted_basis(nullptr, 0), nullptr, p_.y);
      case kEdgeGradInput:
        return grad_input<true>(1);
      case kEdgeGradCoef:
        return edges<EdgeSum::kMagnitudeCoef>(weighted_basis(nullptr, 0), p_.gs, p_.gb);
      case kRows:
        return rows();
      case kContract:
        return contract();
    }
  }
};

template <class T>
void run(Operation operation, const Problem& p, Pass& pass) {
  switch (p.degree) {
    case 0:
      return Layer<T, 0>(p, pass).run(operation);
    case 1:
      return Layer<T, 1>(p, pass).run(operation);
    case 2:
      return Layer<T, 2>(p, pass).run(operation);
    case 3:
      return Layer<T, 3>(p, pass).run(operation);
    case 4:
      return Layer<T, 4>(p, pass).run(operation);
    case 5:
      return Layer<T, 5>(p, pass).run(operation);
  }
}

extern template void run<float>(Operation, const Problem&, Pass&);
extern template void run<double>(Operation, const Problem&, Pass&);

}  // namespace kan_cuda
