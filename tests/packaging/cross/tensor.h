// Tensors of the four dtypes as bytes; 16-bit formats are decoded by their definition and encoded by truncation.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace check {

using kan::Type;

// ---- 16-bit formats ----

inline double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double size = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
  return bits & 0x8000 ? -size : size;
}

inline uint16_t half_bits(double value) {
  const uint16_t sign = value < 0 ? 0x8000 : 0;
  const double size = std::fabs(value);
  if (size < std::ldexp(1, -14)) return sign | uint16_t(std::ldexp(size, 24));
  int exponent;
  const double fraction = std::frexp(size, &exponent);
  return sign | uint16_t(((exponent + 14) << 10) + int(std::ldexp(fraction, 11)) - 1024);
}

inline double bfloat_value(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

inline uint16_t bfloat_bits(double value) {
  const float narrow = float(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, 4);
  return bits >> 16;
}

// ---- tensors of any type as bytes ----

inline size_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

inline double get(Type type, const char* at) {
  double f64;
  float f32;
  uint16_t bits;
  switch (type) {
    case Type::f64:
      std::memcpy(&f64, at, 8);
      return f64;
    case Type::f32:
      std::memcpy(&f32, at, 4);
      return f32;
    default:
      std::memcpy(&bits, at, 2);
      return type == Type::f16 ? half_value(bits) : bfloat_value(bits);
  }
}

inline void set(Type type, char* at, double value) {
  const float f32 = float(value);
  const uint16_t bits = type == Type::f16 ? half_bits(value) : bfloat_bits(value);
  const void* from = type == Type::f64   ? static_cast<const void*>(&value)
                     : type == Type::f32 ? &f32
                                         : static_cast<const void*>(&bits);
  std::memcpy(at, from, size_of(type));
}

struct Tensor {
  Type type;
  std::vector<char> bytes;

  Tensor(Type t, size_t numbers) : type(t), bytes(numbers * size_of(t), char(0xff)) {}  // NaN in every type
  size_t numbers() const { return bytes.size() / size_of(type); }
  double operator[](size_t i) const { return get(type, &bytes[i * size_of(type)]); }
};

// Rounds to what `type` holds, so that the kernels and evaluate.h get the same numbers.
template <class R>
inline Tensor pack(Type type, std::vector<R>& values) {
  Tensor tensor(type, values.size());
  for (size_t i = 0; i < values.size(); i++) {
    set(type, &tensor.bytes[i * size_of(type)], double(values[i]));
    values[i] = tensor[i];
  }
  return tensor;
}

}  // namespace check
