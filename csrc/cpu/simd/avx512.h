// Operations of AVX-512 that the vector extension can't express or compilers don't find: look-up, compression,
// gathering, masked sums, streams.
#pragma once

#include "cpu/simd/simd.h"

namespace kan {
namespace {

// kLookup: tables of one vector or of two are looked up in registers. kStream: stores can go past the caches. Code asks
// for both with `if constexpr`: elsewhere the functions are deleted, so that a use of them does not compile.
#if defined(__AVX512F__)
constexpr bool kLookup = true;

inline Vec<float> lookup(Vec<float> table, IntVec<float> index) {
  return (Vec<float>)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index, (__m512)table);
}
inline Vec<double> lookup(Vec<double> table, IntVec<double> index) {
  return (Vec<double>)_mm512_maskz_permutexvar_pd(0xff, (__m512i)index, (__m512d)table);
}

inline Vec<float> lookup(Vec<float> low, Vec<float> high, IntVec<float> index) {
  return (Vec<float>)_mm512_permutex2var_ps((__m512)low, (__m512i)index, (__m512)high);
}
inline Vec<double> lookup(Vec<double> low, Vec<double> high, IntVec<double> index) {
  return (Vec<double>)_mm512_permutex2var_pd((__m512d)low, (__m512i)index, (__m512d)high);
}

// sum + (a == b ? v : 0)
inline Vec<float> add_where_equal(Vec<float> sum, IntVec<float> a, IntVec<float> b, Vec<float> v) {
  return (Vec<float>)_mm512_mask_add_ps((__m512)sum, _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b), (__m512)sum,
                                        (__m512)v);
}
inline Vec<double> add_where_equal(Vec<double> sum, IntVec<double> a, IntVec<double> b, Vec<double> v) {
  return (Vec<double>)_mm512_mask_add_pd((__m512d)sum, _mm512_cmpeq_epi64_mask((__m512i)a, (__m512i)b), (__m512d)sum,
                                         (__m512d)v);
}

// v with 0 in the lanes from n on, 0 < n < kLanes
inline IntVec<float> first_of(IntVec<float> v, int64_t n) {
  return (IntVec<float>)_mm512_maskz_mov_epi32(first_lanes(n), (__m512i)v);
}
inline IntVec<double> first_of(IntVec<double> v, int64_t n) {
  return (IntVec<double>)_mm512_maskz_mov_epi64(first_lanes(n), (__m512i)v);
}

// Whether any lane has any of the bits.
inline bool any_of(IntVec<float> v, int32_t bits) {
  return _mm512_test_epi32_mask((__m512i)v, _mm512_set1_epi32(bits)) != 0;
}
inline bool any_of(IntVec<double> v, int32_t bits) {
  return _mm512_test_epi64_mask((__m512i)v, _mm512_set1_epi64(uint32_t(bits))) != 0;
}

// Sorts samples by key, by one pass over all keys for each key from `first` to `last`. `offset` gets Plan::offset of
// the samples, `sorted` their keys, start[k - first] the first place of key k, and start[last + 1 - first] the end.
// `offset` and `sorted` have room for a whole vector more; `key` is padded to whole vectors by -1.
inline void sort_by_few_keys(const int32_t* key, int64_t n, int first, int last, int32_t* start, int32_t* offset,
                             int32_t* sorted) {
  const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i offsets = _mm512_mullo_epi32(iota, _mm512_set1_epi32(KAN_VECTOR_BYTES));
  int32_t total = 0;
  for (int k = first; k <= last; k++) {
    start[k - first] = total;
    for (int64_t b = 0; b < n; b += 16) {
      const __mmask16 here = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(key + b), _mm512_set1_epi32(k));
      const __m512i some = _mm512_add_epi32(offsets, _mm512_set1_epi32(b * KAN_VECTOR_BYTES));
      _mm512_storeu_si512(offset + total, _mm512_maskz_compress_epi32(here, some));
      _mm512_storeu_si512(sorted + total, _mm512_set1_epi32(k));
      total += __builtin_popcount(here);
    }
  }
  start[last + 1 - first] = total;
}

// from[offset[q] / KAN_VECTOR_BYTES] for the first n places q of a vector, 0 in the other lanes; `offset` is a whole
// vector.
inline Vec<float> gather(const float* from, const int32_t* offset, int64_t n) {
  const __mmask16 valid = n < 16 ? first_lanes(n) : 0xffff;
  return (Vec<float>)_mm512_mask_i32gather_ps(__m512{}, valid, (__m512i)(load<Int>(offset) >> 4), from, 1);
}
inline Vec<double> gather(const double* from, const int32_t* offset, int64_t n) {
  const __mmask8 valid = n < 8 ? first_lanes(n) : 0xff;
  const auto bytes = load<Vector<int32_t, 8>::Type>(offset) >> 3;
  return (Vec<double>)_mm512_mask_i32gather_pd(__m512d{}, valid, (__m256i)bytes, from, 1);
}

// Stores past the caches, at addresses of whole vectors.
constexpr bool kStream = true;
inline void stream(float* p, Vec<float> v) { _mm512_stream_ps(p, (__m512)v); }
inline void stream(double* p, Vec<double> v) { _mm512_stream_pd(p, (__m512d)v); }
inline void end_of_stream() { _mm_sfence(); }
#else
constexpr bool kLookup = false, kStream = false;

template <class V, class I>
V lookup(V table, I index) = delete;
template <class V, class I>
V lookup(V low, V high, I index) = delete;
template <class V, class I>
V add_where_equal(V sum, I a, I b, V v) = delete;
template <class I>
I first_of(I v, int64_t n) = delete;
template <class I>
bool any_of(I v, int32_t bits) = delete;
void sort_by_few_keys(const int32_t* key, int64_t n, int first, int last, int32_t* start, int32_t* row,
                      int32_t* sorted) = delete;
template <class C>
Vec<C> gather(const C* from, const int32_t* row, int64_t n) = delete;
template <class C, class V>
void stream(C* p, V v) = delete;
inline void end_of_stream() {}  // nothing to wait for
#endif

// Look-up in a table in memory: of two vectors, or of one unless Two.
template <bool Two, class C>
inline Vec<C> lookup(const C* table, IntVec<C> index) {
  const Vec<C> low = load<Vec<C>>(table);
  return Two ? lookup(low, load<Vec<C>>(table + kLanes<C>), index) : lookup(low, index);
}

}  // namespace
}  // namespace kan
