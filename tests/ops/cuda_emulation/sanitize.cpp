// Runs every kernel on small problems under a sanitizer. All buffers have the exact size, so that a read or write
// beyond one is seen; results must be numbers, and the same bits in every order of blocks and threads.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "emulation.h"
#include "interface.h"

using namespace kan_cuda;
using Buffer = std::vector<unsigned char>;

namespace {

int width(Type dtype) { return dtype == Type::f64 ? 8 : dtype == Type::f32 ? 4 : 2; }

void put(Buffer& buffer, Type dtype, int64_t n, double value) {
  const float single = float(value);
  const uint16_t half = __half_as_ushort(__float2half_rn(single));
  const uint16_t bfloat16 = __bfloat16_as_ushort(__float2bfloat16_rn(single));
  const void* source = &value;
  if (dtype == Type::f32) source = &single;
  if (dtype == Type::f16) source = &half;
  if (dtype == Type::bf16) source = &bfloat16;
  std::memcpy(buffer.data() + n * width(dtype), source, size_t(width(dtype)));
}

Buffer numbers(int64_t count, Type dtype, std::mt19937& random) {
  std::uniform_real_distribution<double> uniform(-1.2, 1.2);
  Buffer buffer(size_t(count * width(dtype)));
  for (int64_t n = 0; n < count; ++n) put(buffer, dtype, n, uniform(random));
  return buffer;
}

bool has_nan(const Buffer& buffer, Type dtype) {
  for (size_t n = 0; n < buffer.size(); n += size_t(width(dtype))) {
    bool all_ones = true;
    for (int byte = 0; byte < width(dtype); ++byte) all_ones &= buffer[n + size_t(byte)] == 0xff;
    if (all_ones) return true;
  }
  return false;
}

// The results of all operations on one problem, one after the other; memory never written shows as NaN.
std::vector<Buffer> results(Problem p, const std::vector<Buffer>& inputs, unsigned seed, int processors) {
  emulation::settings = {seed, processors};
  const int64_t rows = p.knots - p.degree - 1, edges = p.in * p.out, samples = p.batch * p.in;
  std::vector<Buffer> all;
  for (int operation = kForward; operation <= kContract; ++operation) {
    const bool coef = operation == kGradCoef || operation == kEdgeGradCoef, written = operation == kRows;
    const bool slope = operation == kGradInput || operation == kEdgeGradInput || operation == kContract;
    p.first = p.in / 3, p.count = p.in - p.first;
    const int64_t each = written ? p.batch * p.count : edges;
    const int64_t sizes[] = {p.batch * p.out, samples, each * rows, each, each * rows};
    std::vector<Buffer> out;
    for (int64_t size : sizes) out.emplace_back(size_t(size * width(p.dtype)), 0xff);
    p.y = operation == kForward ? out[0].data() : operation == kEdgeMagnitude ? out[3].data() : nullptr;
    p.gx = slope ? out[1].data() : nullptr;
    p.gs = coef || written ? out[2].data() : nullptr;
    p.gb = coef || written ? out[3].data() : nullptr;
    p.low = written ? out[4].data() : nullptr;
    p.g = operation >= kEdgeMagnitude ? inputs[3].data() : inputs[2].data();
    p.spline_weight = inputs[operation == kContract ? 7 : 4].data();
    p.base_weight = inputs[operation == kContract ? 8 : 5].data();
    p.order = operation == kGradInput ? 1 : 0;
    Buffer workspace(size_t(kan_cuda_workspace(operation, &p)), 0xff);
    p.workspace = workspace.data();
    if (kan_cuda_launch(operation, &p) != cudaSuccess) emulation::fail("a launch failed");
    const void* const targets[] = {p.y, p.gx, p.gs, p.gb, p.low};
    for (const Buffer& buffer : out)
      if (std::find(targets, targets + 5, buffer.data()) != targets + 5) all.push_back(buffer);
  }
  return all;
}

void check(Type dtype, int degree, int grid_size, int64_t batch, int64_t in, int64_t out, int processors = 4) {
  std::mt19937 random(1);
  const int64_t knots = grid_size + 2 * degree + 1, rows = grid_size + degree;
  std::vector<Buffer> inputs;
  for (int64_t count : {batch * in, batch * in, batch * out, out * in, out * in * rows, out * in, out})
    inputs.push_back(numbers(count, dtype, random));
  const Type grid_dtype = dtype == Type::f64 ? Type::f64 : Type::f32;
  for (int64_t count : {batch * in * rows, batch * in}) inputs.push_back(numbers(count, grid_dtype, random));
  Buffer grid(size_t(in * knots * width(grid_dtype)));
  for (int64_t n = 0; n < in * knots; ++n) put(grid, grid_dtype, n, -1 + 2 * double(n % knots - degree) / grid_size);

  Problem p = {};
  p.x = inputs[0].data(), p.v = inputs[1].data(), p.grid = grid.data();
  p.bias = inputs[6].data();
  p.batch = batch, p.in = in, p.out = out, p.knots = knots;
  p.dtype = dtype, p.degree = degree, p.extrapolation = Extrapolation(degree % 3);
  const std::vector<Buffer> first = results(p, inputs, 1, processors), second = results(p, inputs, 2, processors);
  for (const Buffer& buffer : first)
    if (has_nan(buffer, dtype)) emulation::fail("a result was not written");
  if (first != second) emulation::fail("results depend on the order of blocks or threads");
}

}  // namespace

// With an argument, only what ThreadSanitizer can do in a minute.
int main(int count, char**) {
  for (const Type dtype : {Type::f32, Type::f64}) check(dtype, 3, 5, 9, 5, 33);
  check(Type::f32, 3, 5, 1030, 3, 2, 1);    // blocks of rows_kernel and contract_kernel that take many samples,
  check(Type::bf16, 3, 30, 1030, 3, 2, 1);  // and without room for the rows in shared memory
  if (count == 1) {
    for (const Type dtype : {Type::f32, Type::f64}) {
      for (int degree : {0, 1, 2, 4, 5}) check(dtype, degree, 2, 5, 3, 5);
      check(dtype, 3, 60, 33, 5, 33);  // rows pass in windows
    }
    for (const Type dtype : {Type::f16, Type::bf16}) check(dtype, 3, 2, 5, 3, 5);
    check(Type::f32, 3, 5, 70, 9, 67);  // several tiles in each direction, sums shared by blocks
  }
  std::puts("clean");
}
