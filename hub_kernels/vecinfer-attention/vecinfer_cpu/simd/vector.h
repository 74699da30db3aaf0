// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Vectors of VECINFER_LANES floats by the compiler's vector extensions, in the namespace of one
// instruction set. Included once per file of isa/, behind its target pragma: no include guard, and
// nothing of the standard library, whose inline functions would be shared between files.

using vf = float __attribute__((vector_size(VECINFER_LANES * 4)));
using vi = int32_t __attribute__((vector_size(VECINFER_LANES * 4)));
constexpr int kLanes = VECINFER_LANES;

VECINFER_INLINE vf vload(const float* from) {
  vf v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
VECINFER_INLINE vf vload_part(const float* from, int count) {
  float all[kLanes] = {};
  for (int i = 0; i < count; ++i) all[i] = from[i];
  return vload(all);
}
VECINFER_INLINE void vstore(float* to, vf v) { __builtin_memcpy(to, &v, sizeof v); }
VECINFER_INLINE void vstore(int32_t* to, vi v) { __builtin_memcpy(to, &v, sizeof v); }
VECINFER_INLINE vf vset(float x) { return vf{} + x; }
VECINFER_INLINE vi vset(int32_t x) { return vi{} + x; }
VECINFER_INLINE vf vbits(vi v) { return reinterpret_cast<vf>(v); }
VECINFER_INLINE vi vbits(vf v) { return reinterpret_cast<vi>(v); }
// mask: all bits of a lane or none.
VECINFER_INLINE vf vselect(vi mask, vf a, vf b) { return mask ? a : b; }
VECINFER_INLINE vi vselect(vi mask, vi a, vi b) { return mask ? a : b; }
// The second operand where the first is not larger, a NaN in the first included.
VECINFER_INLINE vf vmax(vf a, vf b) { return vselect(a > b, a, b); }

VECINFER_INLINE float vsum(vf v) {
#if VECINFER_LANES == 16
  using half = float __attribute__((vector_size(32)));
  half h[2];
  __builtin_memcpy(h, &v, sizeof v);
  half a = h[0] + h[1];
#else
  vf a = v;
#endif
#if VECINFER_LANES >= 8
  using quarter = float __attribute__((vector_size(16)));
  quarter q[2];
  __builtin_memcpy(q, &a, sizeof a);
  quarter s = q[0] + q[1];
#else
  vf s = a;
#endif
  return (s[0] + s[2]) + (s[1] + s[3]);
}
VECINFER_INLINE float vmaximum(vf v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// 2^x to 2 units in the last place; 0 below 2^-126, NaN stays NaN.
VECINFER_INLINE vf vexp2(vf x) {
  const vi small = x < -126.0f;
  x = vselect(small, vset(-126.0f), x);
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const vf shifted = x + 12582912.0f;
  const vi exponent = (vbits(shifted) - vset(int32_t(0x4b400000))) << 23;
  const vf r = x - (shifted - 12582912.0f);
  vf p = vset(1.535336188319500e-4f);
  p = p * r + 1.339887440266574e-3f;
  p = p * r + 9.618437357674640e-3f;
  p = p * r + 5.550332471162809e-2f;
  p = p * r + 2.402264791363012e-1f;
  p = p * r + 6.931472028550421e-1f;
  p = p * r + 1.0f;
  return vselect(small, vf{}, p * vbits(exponent + vset(int32_t(0x3f800000))));
}

constexpr float kLog2e = 1.4426950408889634f;

VECINFER_INLINE vf vtanh(vf x) {
  // 1 - 2 / (1 + e^2x), with x bounded so that nothing overflows.
  x = vselect(x > 15.0f, vset(15.0f), vselect(x < -15.0f, vset(-15.0f), x));
  return 1.0f - 2.0f / (1.0f + vexp2(x * (2.0f * kLog2e)));
}
