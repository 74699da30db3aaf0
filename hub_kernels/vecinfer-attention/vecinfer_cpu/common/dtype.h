// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// float16 and bfloat16 to float32 and back, in plain integer arithmetic that compilers vectorize.
#pragma once

#include <cstdint>
#include <cstring>

#include "params.h"

#define VECINFER_INLINE inline __attribute__((always_inline))

namespace vecinfer {

VECINFER_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
VECINFER_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

VECINFER_INLINE float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = uint32_t(half & 0x7fff) << 13;
  // Exponents 15 too small: one multiplication by 2^112 sets that right, subnormals included.
  const uint32_t finite = bits_of_float(float_of_bits(magnitude) * float_of_bits(0x77800000u));
  const uint32_t special = magnitude | 0x7f800000u;
  return float_of_bits(sign | ((half & 0x7c00) == 0x7c00 ? special : finite));
}

VECINFER_INLINE uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

VECINFER_INLINE uint16_t float_to_half(float value) {
  const uint32_t bits = bits_of_float(value), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  // Normal: the exponent moves by 112, then rounding to nearest even.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  // Subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
  const uint32_t small = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return static_cast<uint16_t>(sign | half);
}

// `count` numbers of any dtype to float32.
VECINFER_INLINE void load_floats(const void* from, Dtype dtype, float* to, int64_t count) {
  if (dtype == Dtype::kFloat) {
    std::memcpy(to, from, size_t(count) * 4);
  } else if (dtype == Dtype::kBfloat16) {
    const uint16_t* bits = static_cast<const uint16_t*>(from);
    for (int64_t i = 0; i < count; ++i) to[i] = float_of_bits(uint32_t(bits[i]) << 16);
  } else {
    const uint16_t* bits = static_cast<const uint16_t*>(from);
    for (int64_t i = 0; i < count; ++i) to[i] = half_to_float(bits[i]);
  }
}

VECINFER_INLINE void store_floats(const float* from, void* to, Dtype dtype, int64_t count) {
  if (dtype == Dtype::kFloat) {
    std::memcpy(to, from, size_t(count) * 4);
  } else if (dtype == Dtype::kBfloat16) {
    uint16_t* bits = static_cast<uint16_t*>(to);
    for (int64_t i = 0; i < count; ++i) bits[i] = float_to_bfloat16(from[i]);
  } else {
    uint16_t* bits = static_cast<uint16_t*>(to);
    for (int64_t i = 0; i < count; ++i) bits[i] = float_to_half(from[i]);
  }
}

}  // namespace vecinfer
