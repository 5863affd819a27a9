// What the vector extension can't express or compilers don't find, in AVX-512: table look-up, compression, masked sums.
#pragma once

#include "simd.h"

namespace kan {
namespace {

// kLookup: tables of up to 2 * kLanes numbers are looked up in registers.
#if defined(__AVX512F__)
constexpr bool kLookup = true;

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

// Sorts the samples by cell: one pass for each cell. `id` has room for a whole vector more, and `cell` is padded to
// whole vectors by -1.
inline void sort_by_few_cells(const int32_t* cell, int64_t n, int cells, int32_t* start, int32_t* id) {
  const __m512i iota = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  int32_t total = 0;
  for (int c = 0; c < cells; c++) {
    start[c] = total;
    for (int64_t b = 0; b < n; b += 16) {
      const __mmask16 here = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(cell + b), _mm512_set1_epi32(c));
      const __m512i sample = _mm512_add_epi32(iota, _mm512_set1_epi32(b));
      _mm512_storeu_si512(id + total, _mm512_maskz_compress_epi32(here, sample));
      total += __builtin_popcount(here);
    }
  }
  start[cells] = total;
}
#else
constexpr bool kLookup = false;

template <class V, class I>
inline V lookup(V low, V, I) {
  return low;
}
template <class V, class I>
inline V add_where_equal(V sum, I, I, V) {
  return sum;
}
inline void sort_by_few_cells(const int32_t*, int64_t, int, int32_t*, int32_t*) {}
#endif

}  // namespace
}  // namespace kan
