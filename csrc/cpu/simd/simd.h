// Vectors of any width through the compiler's vector extension: loads, shuffles, exp and 16-bit conversions.
//
// Everything below the kernels lives in an anonymous namespace and calls no inline library function: a function
// compiled here for AVX-512 must never be the copy that the linker keeps for the whole module.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross the boundary of a source file
#endif

namespace kan {
namespace {

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using Int = int32_t;
  static constexpr int mantissa = 23;
};
template <>
struct Bits<double> {
  using Int = int64_t;
  static constexpr int mantissa = 52;
};

// N numbers of type T. `Loose` is the same vector in memory without alignment.
template <class T, int N>
struct Vector {
  typedef T Type __attribute__((vector_size(N * sizeof(T))));
  typedef T Loose __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
};

template <class T>
constexpr int kLanes = KAN_VECTOR_BYTES / sizeof(T);
template <class T>
using Vec = typename Vector<T, kLanes<T>>::Type;
template <class T>
using IntVec = Vec<typename Bits<T>::Int>;

template <class V, class T>
inline V load(const T* p) {
  return *reinterpret_cast<const typename Vector<T, sizeof(V) / sizeof(T)>::Loose*>(p);
}

template <class V, class T>
inline void store(T* p, V v) {
  *reinterpret_cast<typename Vector<T, sizeof(V) / sizeof(T)>::Loose*>(p) = v;
}

template <class V, class T>
inline V splat(T value) {
  return value - V{};
}

// A bit cast: V has the size of v.
template <class V, class U>
inline V as(U v) {
  V r;
  static_assert(sizeof r == sizeof v, "bit casts keep the size");
  std::memcpy(&r, &v, sizeof r);
  return r;
}

template <class V, class U>
inline V convert(U v) {
  return __builtin_convertvector(v, V);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// The numbers of a and b in turn: those of their first halves, or with Half = 1 of their second halves.
template <class V, int Half, int... J>
inline V interleave(V a, V b, std::integer_sequence<int, J...>) {
  constexpr int n = sizeof...(J);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (J / 2 + Half * n / 2 + (J % 2) * n)...);
#else
  using Index = decltype(a < b);
  return __builtin_shuffle(a, b, Index{(J / 2 + Half * n / 2 + (J % 2) * n)...});
#endif
}

// In lane j: lane j ^ Flip of b if j has the bit `Bit`, else of a.
template <int Bit, int Flip, class V, int... J>
inline V join(V a, V b, std::integer_sequence<int, J...>) {
  constexpr int n = sizeof...(J);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, ((J ^ Flip) + (J & Bit ? n : 0))...);
#else
  using Index = decltype(a < b);
  return __builtin_shuffle(a, b, Index{((J ^ Flip) + (J & Bit ? n : 0))...});
#endif
}

// Interleaves N vectors once, which rotates the index of each number by one bit. log2(N) rotations turn columns into
// rows, log2(lanes) rotations turn rows into columns.
template <class V, int N>
inline void rotate(V (&v)[N]) {
  if (N == 1) return;
  using Sequence = std::make_integer_sequence<int, sizeof(V) / sizeof(v[0][0])>;
  V w[N];
#pragma GCC unroll 16
  for (int i = 0; i < N / 2; i++) {
    w[2 * i] = interleave<V, 0>(v[i], v[i + N / 2], Sequence{});
    w[2 * i + 1] = interleave<V, 1>(v[i], v[i + N / 2], Sequence{});
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) v[i] = w[i];
}

// Turns N vectors into N vectors that hold lane 0 of each, then lane 1 of each, ...: with N = kLanes, the transposed
// square.
template <class V, int N>
inline void transpose(V (&v)[N]) {
#pragma GCC unroll 4
  for (int step = 1; step < N; step *= 2) rotate(v);
}

// exp(x) within 2 units in the last place; +inf above `limit`, at least exp(-limit).
template <class T>
struct Exp;
template <>
struct Exp<float> {
  static constexpr float limit = 87.0f, magic = 12582912.0f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float series[] = {1.98756915e-4f, 1.39819995e-3f, 8.33345190e-3f, 4.16657959e-2f,
                                     1.66666655e-1f, 5.0e-1f,        1.0f,           1.0f};
};
template <>
struct Exp<double> {
  static constexpr double limit = 708.0, magic = 6755399441055744.0, ln2_high = 6.93145751953125e-1,
                          ln2_low = 1.42860682030941723212e-6;
  static constexpr double series[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
};

template <class T>
inline Vec<T> exp(Vec<T> x) {
  using V = Vec<T>;
  using U = Vec<std::make_unsigned_t<typename Bits<T>::Int>>;
  using E = Exp<T>;
  const V clamped = x < -E::limit ? splat<V>(-E::limit) : x;
  const V shifted = clamped * T(1.4426950408889634) + E::magic;  // its low bits hold the exponent n
  const V n = shifted - E::magic;
  const V r = (clamped - n * E::ln2_high) - n * E::ln2_low;
  V p = splat<V>(E::series[0]);
#pragma GCC unroll 16
  for (unsigned i = 1; i < sizeof(E::series) / sizeof(T); i++) p = p * r + E::series[i];
  const V power = as<V>((as<U>(shifted) << Bits<T>::mantissa) + as<U>(splat<V>(T(1))));
  return x > E::limit ? splat<V>(T(__builtin_inf())) : p * power;
}

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

// Tensors store S, kernels compute with Compute<S>; the grid has the computing type.
template <class S>
struct ComputeOf {
  using Type = S;
};
template <>
struct ComputeOf<Half> {
  using Type = float;
};
template <>
struct ComputeOf<BFloat> {
  using Type = float;
};
template <class S>
using Compute = typename ComputeOf<S>::Type;

using Int = Vec<int32_t>;
using Word = Vec<uint32_t>;
using Short = Vector<uint16_t, kLanes<float>>::Type;

inline Vec<float> widen(Short s, BFloat) { return as<Vec<float>>(convert<Word>(s) << 16); }

inline Vec<float> widen(Short s, Half) {
  const Word h = convert<Word>(s), magnitude = h & 0x7fff;
  // The moved exponent is too small by 127 - 15 = 112. The product adds that, to denormals too.
  Vec<float> value = as<Vec<float>>(magnitude << 13) * 0x1p112f;
  const Word special = (magnitude << 13) | 0x7f800000;
  value = magnitude >= 0x7c00 ? as<Vec<float>>(special) : value;
  return as<Vec<float>>(as<Word>(value) | ((h & 0x8000) << 16));
}

// Round to nearest, ties to even.
inline Short narrow(Vec<float> v, BFloat) {
  const Word b = as<Word>(v), rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
  const Word nan = (b >> 16) | 0x40;
  return convert<Short>((b & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

inline Short narrow(Vec<float> v, Half) {
  const Word b = as<Word>(v), sign = (b >> 16) & 0x8000, magnitude = b & 0x7fffffff;
  const Word normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Below 2^-14 the sum with 0.5 rounds to a multiple of 2^-24, the denormal step.
  const Word denormal = as<Word>(as<Vec<float>>(magnitude) + 0.5f) - 0x3f000000;
  Word h = magnitude < (113u << 23) ? denormal : normal;
  h = magnitude >= 0x477ff000 ? Word{} + 0x7c00 : h;
  h = magnitude > 0x7f800000 ? Word{} + 0x7e00 : h;
  return convert<Short>(h | sign);
}

inline Vec<float> fetch(const float* p) { return load<Vec<float>>(p); }
inline Vec<double> fetch(const double* p) { return load<Vec<double>>(p); }
inline Vec<float> fetch(const Half* p) { return widen(load<Short>(&p->bits), Half{}); }
inline Vec<float> fetch(const BFloat* p) { return widen(load<Short>(&p->bits), BFloat{}); }

inline void put(float* p, Vec<float> v) { store(p, v); }
inline void put(double* p, Vec<double> v) { store(p, v); }
inline void put(Half* p, Vec<float> v) { store(&p->bits, narrow(v, Half{})); }
inline void put(BFloat* p, Vec<float> v) { store(&p->bits, narrow(v, BFloat{})); }

// fetch and put of the first n lanes, 0 < n < kLanes.
#if defined(__AVX512BW__) && defined(__AVX512VL__)
inline uint32_t first_lanes(int64_t n) { return (1u << n) - 1; }
inline Vec<float> fetch_some(const float* p, int64_t n) { return (Vec<float>)_mm512_maskz_loadu_ps(first_lanes(n), p); }
inline Vec<double> fetch_some(const double* p, int64_t n) {
  return (Vec<double>)_mm512_maskz_loadu_pd(first_lanes(n), p);
}
template <class S>
inline Vec<float> fetch_some(const S* p, int64_t n) {
  return widen((Short)_mm256_maskz_loadu_epi16(first_lanes(n), p), S{});
}
inline void put_some(float* p, Vec<float> v, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)v); }
inline void put_some(double* p, Vec<double> v, int64_t n) { _mm512_mask_storeu_pd(p, first_lanes(n), (__m512d)v); }
template <class S>
inline void put_some(S* p, Vec<float> v, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)narrow(v, S{}));
}
#else
// Copies 8, 4, 2 and 1 numbers, each by one move; the compiler would turn a loop into a call of memcpy.
template <int Step, class S>
inline void copy_some(S* to, const S* from, int64_t n) {
  if (n & Step) __builtin_memcpy(to, from, Step * sizeof(S));
  if constexpr (Step > 1) copy_some<Step / 2>(to + (n & Step), from + (n & Step), n);
}
template <class S>
inline Vec<Compute<S>> fetch_some(const S* p, int64_t n) {
  constexpr int lanes = kLanes<Compute<S>>;
  S buffer[lanes] = {};
  copy_some<lanes / 2>(buffer, p, n);
  return fetch(buffer);
}
template <class S>
inline void put_some(S* p, Vec<Compute<S>> v, int64_t n) {
  constexpr int lanes = kLanes<Compute<S>>;
  S buffer[lanes];
  put(buffer, v);
  copy_some<lanes / 2>(p, buffer, n);
}
#endif

// fetch and put for any n, which may be negative. Lanes beyond n are 0 in a fetch and untouched by a put.
template <class S>
inline Vec<Compute<S>> fetch(const S* p, int64_t n) {
  return n >= kLanes<Compute<S>> ? fetch(p) : n > 0 ? fetch_some(p, n) : Vec<Compute<S>>{};
}

template <class S>
inline void put(S* p, Vec<Compute<S>> v, int64_t n) {
  if (n >= kLanes<Compute<S>>) {
    put(p, v);
  } else if (n > 0) {
    put_some(p, v, n);
  }
}

}  // namespace
}  // namespace kan
