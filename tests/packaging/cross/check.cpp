// Checks the kernels on a processor for which there is a compiler but no torch: all degrees, dtypes and kinds of grids,
// against evaluate.h. Prints the largest errors and fails where one is above its bound.
#include <algorithm>
#include <cfloat>
#include <cstdio>
#include <random>
#include <string>

#include "evaluate.h"
#include "tensor.h"

extern "C" void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);

namespace check {
namespace {

const char* const type_names[] = {"float32", "float64", "float16", "bfloat16"};
const char* const base_names[] = {"silu", "identity", "zero"};
const char* const extrapolation_names[] = {"zero", "linear", "clamp"};

// Of what the kernels compute with.
double unit(Type type) { return type == Type::f64 ? DBL_EPSILON : FLT_EPSILON; }

struct Worst {
  double units = 0;
  std::string where;
};
Worst worst[4];  // of each dtype
int failures = 0;

struct Random {
  std::mt19937 engine;

  double uniform() { return std::ldexp(engine(), -32); }  // the distributions of the library differ
  template <class R>
  std::vector<R> vector(size_t numbers, double scale = 1) {
    std::vector<R> result(numbers);
    for (R& value : result) value = R(scale * (2 * uniform() - 1));
    return result;
  }
};

// Knots with the range [-1, 1]; adaptive spans differ up to 50 times.
template <class R>
std::vector<R> knots(const kan::Layer& l, bool adaptive, Random& random) {
  const int count = l.grid_size + 2 * l.degree + 1;
  std::vector<R> grid;
  for (int64_t i = 0; i < l.in; i++) {
    std::vector<double> t(count);
    for (int j = 1; j < count; j++) t[j] = t[j - 1] + (adaptive ? std::exp(4 * random.uniform()) : 1.0);
    const double start = t[l.degree], end = t[count - 1 - l.degree];
    for (double knot : t) grid.push_back(R(2 * (knot - start) / (end - start) - 1));
  }
  return grid;
}

struct Result {
  const char* name;
  Tensor tensor;
  double bound;  // of errors, in rounding units: see error_in_units
};

// One layer with its numbers; R is the type they are evaluated with.
template <class R>
class Problem {
 public:
  Problem(Type type, const kan::Layer& layer, bool adaptive, unsigned seed)
      : random_{std::mt19937(seed)},
        type_(type),
        rows_(layer.grid_size + layer.degree),
        edges_(layer.out * layer.in),
        numbers_(draw(layer, adaptive)),
        grid_(pack(type == Type::f64 ? type : Type::f32, numbers_.grid)),
        x_(pack(type, numbers_.x)),
        v_(pack(type, numbers_.v)),
        g_(pack(type, numbers_.g)),
        edge_g_(pack(type, numbers_.edge_g)),
        spline_weight_(pack(type, numbers_.spline_weight)),
        base_weight_(pack(type, numbers_.base_weight)),
        bias_(pack(type, numbers_.bias)) {}

  // What the kernels compute: the results that `wanted` lists.
  std::vector<Result> found(const kan::Kernels& kernels, int threads) const {
    kan::Layer l = numbers_.layer, value = l;
    l.threads = value.threads = threads;
    value.order = 0;
    const Tensor x(type_, l.batch * l.in), splines(type_, edges_ * rows_), base(type_, edges_), bias(type_, l.out);
    // Sums of n numbers, one by one, are sure to be right to n / 2 units, and mostly are far better.
    const double bound = 4, sums = std::max(bound, double(l.batch) / 8);
    std::vector<Result> r = {{"y", Tensor(type_, l.batch * l.out), bound},
                             {"grad_x", x, bound},
                             {"grad_spline", splines, sums},
                             {"grad_base", base, sums},
                             {"grad_bias", bias, sums},
                             {"grad_x alone", x, bound},
                             {"edge_magnitude", base, sums},
                             {"grad_x of edge_magnitude", x, bound},
                             {"grad_spline of edge_magnitude", splines, sums},
                             {"grad_base of edge_magnitude", base, sums}};
    const auto at = [&](int i) { return r[i].tensor.bytes.data(); };
    const auto run = [&](kan::Kernel kernel, const kan::Layer& layer, const Tensor* v, const Tensor* g,
                         const Tensor* bias, void* y, void* gx, void* gs, void* gb, void* gbias) {
      const auto bytes = [](const Tensor* t) { return t ? t->bytes.data() : nullptr; };
      kernel(type_, layer,
             {bytes(&grid_), bytes(&x_), bytes(v), bytes(g), bytes(&spline_weight_), bytes(&base_weight_), bytes(bias),
              y, gx, gs, gb, gbias});
    };
    void* const no = nullptr;
    run(kernels.forward, l, &v_, nullptr, &bias_, at(0), no, no, no, no);
    run(kernels.backward, l, &v_, &g_, nullptr, no, at(1), at(2), at(3), at(4));
    run(kernels.backward, l, nullptr, &g_, nullptr, no, at(5), no, no, no);
    run(kernels.edge_magnitude, value, nullptr, nullptr, nullptr, at(6), no, no, no, no);
    run(kernels.edge_magnitude_backward, value, nullptr, &edge_g_, nullptr, no, at(7), at(8), at(9), no);
    return r;
  }

  std::vector<exact::Sums<R>> wanted() const {
    const int order = numbers_.layer.order;
    const auto all = exact::backward(numbers_, order + 1);
    const auto magnitude = exact::edge_magnitude_backward(numbers_, R(unit(type_)));
    return {exact::forward(numbers_),
            all.x,
            all.spline,
            all.base,
            all.bias,
            exact::backward(numbers_, order).x,
            exact::edge_magnitude(numbers_),
            magnitude.x,
            magnitude.spline,
            magnitude.base};
  }

 private:
  exact::Numbers<R> draw(const kan::Layer& l, bool adaptive) {
    Random& r = random_;
    exact::Numbers<R> p{l,
                        knots<R>(l, adaptive, r),
                        r.vector<R>(l.batch * l.in, 1.3),
                        r.vector<R>(l.batch * l.in),
                        r.vector<R>(l.batch * l.out),
                        r.vector<R>(edges_),
                        r.vector<R>(edges_ * rows_, std::pow(l.grid_size, -l.order)),  // derivatives fit into float16
                        r.vector<R>(edges_),
                        r.vector<R>(l.out)};
    const int64_t count = rows_ + l.degree + 1;
    for (int64_t b = 0; b < l.batch; b += 5) {  // on knots, the ends of the range among them
      for (int64_t i = 0; i < l.in; i++) p.x[b * l.in + i] = p.grid[i * count + (b / 5 + l.degree) % count];
    }
    return p;
  }

  Random random_;
  Type type_;
  int64_t rows_, edges_;
  exact::Numbers<R> numbers_;
  Tensor grid_, x_, v_, g_, edge_g_, spline_weight_, base_weight_, bias_;
};

// The largest error in rounding units, of the largest sum of sizes of terms. 16-bit results are float32's, rounded
// once: that rounding, half a unit of each number, is no error.
template <class R>
double error_in_units(const Tensor& found, const exact::Sums<R>& wanted) {
  const bool half = found.type == Type::f16, wide = size_of(found.type) > 2;
  R largest = 0, error = 0;
  for (size_t i = 0; i < wanted.size(); i++) {
    const R size = std::abs(wanted[i].value);
    const R rounding = wide ? R(0) : half ? std::max(size, R(0x1p-14)) * R(0x1p-11) : size * R(0x1p-8);
    const R off = std::abs(R(found[i]) - wanted[i].value) - rounding - wanted[i].doubt;
    largest = std::max(largest, wanted[i].size);
    error = off <= error ? error : std::isfinite(off) ? off : R(HUGE_VAL);  // NaN too
  }
  return largest > 0 ? double(error / largest) / unit(found.type) : error > 0 ? HUGE_VAL : 0;
}

template <class R>
void check_problem(const kan::Kernels& kernels, Type type, const kan::Layer& l, bool adaptive, unsigned seed) {
  const Problem<R> problem(type, l, adaptive, seed);
  const auto found = problem.found(kernels, 1), threaded = problem.found(kernels, 3);
  const auto wanted = problem.wanted();
  char text[200];
  for (size_t i = 0; i < found.size(); i++) {
    std::snprintf(text, sizeof text, "%s %s %dx%dx%d k=%d G=%d %s %s %s d=%d: %s", kernels.name, type_names[int(type)],
                  int(l.batch), int(l.in), int(l.out), l.degree, l.grid_size, adaptive ? "adaptive" : "uniform",
                  base_names[int(l.base)], extrapolation_names[int(l.extrapolation)], l.order, found[i].name);
    const double units = error_in_units(found[i].tensor, wanted[i]);
    Worst& most = worst[int(type)];
    if (units > most.units) most = {units, text};
    const bool same = found[i].tensor.bytes == threaded[i].tensor.bytes;
    if (units <= found[i].bound && same) continue;
    failures++;
    std::printf("WRONG: %s: %.3g units%s\n", text, units, same ? "" : ", and the number of threads changes it");
  }
}

// Whether `got` is the 16-bit number next to |wanted|, ties to even; the first number beyond the largest is infinite.
bool is_rounded(Type type, uint16_t got, double wanted) {
  const uint16_t infinite = type == Type::f16 ? 0x7c00 : 0x7f80;
  const auto decode = type == Type::f16 ? half_value : bfloat_value;
  const double beyond = 2 * decode(infinite - 1) - decode(infinite - 2);
  const auto value = [&](int bits) { return bits < 0 ? -HUGE_VAL : bits < infinite ? decode(bits) : beyond; };
  if (got > infinite) return false;
  if (wanted >= beyond) return got == infinite;
  const double error = std::fabs(value(got) - wanted);
  const double others = std::min(wanted - value(got - 1), got < infinite ? value(got + 1) - wanted : HUGE_VAL);
  return error < others || (error == others && got % 2 == 0);
}

// All 16-bit numbers times w: float32 holds the products, which must be rounded to the nearest.
void check_rounding(const kan::Kernels& kernels, Type type, double w) {
  Tensor grid(Type::f32, 2), x(type, 65536), weight(type, 1), y(type, 65536);
  for (int i = 0; i < 2; i++) set(Type::f32, &grid.bytes[4 * i], i);
  for (uint32_t bits = 0; bits < 65536; bits++) std::memcpy(&x.bytes[2 * bits], &bits, 2);
  set(type, weight.bytes.data(), w);
  const kan::Layer layer{65536, 1, 1, 1, 0, 0, kan::Base::identity, kan::Extrapolation::zero, 1};
  kernels.forward(type, layer,
                  {grid.bytes.data(), x.bytes.data(), nullptr, nullptr, nullptr, weight.bytes.data(), nullptr,
                   y.bytes.data(), nullptr, nullptr, nullptr, nullptr});
  const uint16_t infinite = type == Type::f16 ? 0x7c00 : 0x7f80;
  for (uint32_t in = 0; in < 65536; in++) {
    uint16_t out;
    std::memcpy(&out, &y.bytes[2 * in], 2);
    const uint16_t size = in & 0x7fff, got = out & 0x7fff;
    const bool right = size > infinite ? got > infinite
                       : size == infinite
                           ? out == in
                           : (got == 0 || (out ^ in) >> 15 == 0) && is_rounded(type, got, std::fabs(x[in] * weight[0]));
    if (right) continue;
    failures++;
    std::printf("WRONG: %s %s: %04x times %g gives %04x\n", kernels.name, type_names[int(type)], in, weight[0], out);
    return;
  }
}

void check_kernels(const kan::Kernels& kernels) {
  struct {
    int64_t batch, in, out;
  } const shapes[] = {{67, 5, 33}, {1, 1, 1}, {40, 19, 6}, {300, 2, 3}, {9, 3, 70}, {50, 17, 1}};
  for (const Type type : {Type::f16, Type::bf16}) {
    for (const double w : {1.0, 1.00390625, 1.3, 0.0078, 1.9, 0.51, 3e-5}) check_rounding(kernels, type, w);
  }
  int n = 0;  // bases, extrapolations, orders and shapes take turns
  for (const int grid_size : {1, 2, 5, 20, 40}) {
    for (int degree = 0; degree <= 5; degree++) {
      for (const Type type : {Type::f32, Type::f64, Type::f16, Type::bf16}) {
        for (const bool adaptive : {false, true}) {
          const auto& s = shapes[n % 6];
          const kan::Layer layer{
              s.batch, s.in, s.out, grid_size, degree, n / 5 % 3, kan::Base(n / 7 % 3), kan::Extrapolation(n / 2 % 3),
              1};
          const auto run = type == Type::f64 ? check_problem<long double> : check_problem<double>;
          run(kernels, type, layer, adaptive, n++);
        }
      }
    }
  }
  std::printf("%s: %d problems\n", kernels.name, n);
}

}  // namespace
}  // namespace check

int main() {
  kan::use_thread_pool(GOMP_parallel);
  int count;
  const kan::Kernels* const* kernels = kan::available_kernels(&count);
  for (int i = 0; i < count; i++) check::check_kernels(*kernels[i]);
  std::puts("largest errors, in rounding units of float32 (for 16 bits too) or float64:");
  for (const check::Worst& most : check::worst) std::printf("%6.2f  %s\n", most.units, most.where.c_str());
  if (LDBL_MANT_DIG <= DBL_MANT_DIG) std::puts("long double is double here: the errors of float64 say little");
  std::printf("%d wrong results\n", check::failures);
  return check::failures > 0;
}
