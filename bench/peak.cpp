// What one core can do at most: multiply-adds from registers, and loads from each level of the memory hierarchy.
#include <chrono>
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kSums = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kSums = 12;
#else
constexpr int kBytes = 16, kSums = 12;
#endif

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class T>
using Vector __attribute__((vector_size(kBytes), may_alias)) = T;

template <class T>
double multiply_adds() {
  using V = Vector<T>;
  constexpr int64_t steps = 1 << 18;
  V sums[kSums] = {}, a = V{} + T(0.5), b = V{} + T(0.25);
  double best = 1e9;
  for (int trial = 0; trial < 50; trial++) {
    const double begin = now();
    for (int64_t i = 0; i < steps; i++) {
#pragma GCC unroll 24
      for (int j = 0; j < kSums; j++) {
        sums[j] = sums[j] * a + b;
        asm volatile("" : "+v"(sums[j]));
      }
    }
    const double seconds = now() - begin;
    if (seconds < best) best = seconds;
  }
  return double(steps) * kSums * (kBytes / sizeof(T)) / best;
}

}  // namespace

extern "C" {

// Multiply-adds per second.
double peak_f32() { return multiply_adds<float>(); }
double peak_f64() { return multiply_adds<double>(); }

// Bytes per second read from `bytes` bytes at `data`, a multiple of 512, again and again.
double peak_loads(const char* data, int64_t bytes) {
  using V = Vector<int64_t>;
  const int64_t passes = 1 + (int64_t(1) << 26) / bytes;
  double best = 1e9;
  for (int trial = 0; trial < 20; trial++) {
    V sums[8] = {};
    const double begin = now();
    for (int64_t pass = 0; pass < passes; pass++) {
      asm volatile("" ::: "memory");
      for (int64_t at = 0; at < bytes; at += 8 * kBytes) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) sums[j] |= *reinterpret_cast<const V*>(data + at + j * kBytes);
      }
    }
    const double seconds = now() - begin;
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) asm volatile("" : "+v"(sums[j]));
    if (seconds < best) best = seconds;
  }
  return double(passes) * bytes / best;
}
}
