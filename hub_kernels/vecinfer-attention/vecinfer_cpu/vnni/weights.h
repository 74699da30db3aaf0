// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Scores to softmax weights of 16 bits, in steps of the block's largest weight / 65535, rounded by
// a dither that keeps sums in the mean: no weight vanishes systematically. Included by
// isa/vnni.cpp.

VECINFER_INLINE __m512 exp2_of(__m512 x) {  // x <= 0; 0 below 2^-126
  x = _mm512_max_ps(x, _mm512_set1_ps(-150.0f));
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.339887440266574e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.618437357674640e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550332471162809e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402264791363012e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931472028550421e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, whole);
}

VECINFER_INLINE __m512 tanh_of(__m512 x) {  // 1 - 2 / (1 + e^2x)
  const __m512 one = _mm512_set1_ps(1.0f),
               size = _mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(15.0f));
  const __m512 e = exp2_of(_mm512_mul_ps(size, _mm512_set1_ps(-2.8853900817779268f)));
  const __m512 t = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
  const __m512i sign = _mm512_and_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN));
  return _mm512_castsi512_ps(_mm512_or_epi32(_mm512_castps_si512(t), sign));
}

// Bounds the scores of a row (softcap), hides what is not visible (-inf), returns the largest.
// s: [groups * 64] in the order of key_dwords.
inline float largest_score(float* s, int groups, int visible, float softcap) {
  const __m512 nothing = _mm512_set1_ps(-__builtin_inff());
  if (softcap != 0.0f) {
    const __m512 cap = _mm512_set1_ps(softcap), inverse = _mm512_set1_ps(1.0f / softcap);
    for (int i = 0; i < groups * 64; i += 16) {
      _mm512_store_ps(s + i,
                      _mm512_mul_ps(cap, tanh_of(_mm512_mul_ps(_mm512_load_ps(s + i), inverse))));
    }
  }
  const __m512i token =
      _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 32, 33, 34, 35, 48, 49, 50, 51);
  __m512 best = nothing;
  for (int g = 0; g < groups; ++g) {
    for (int r = 0; r < 4; ++r) {
      float* at = s + g * 64 + r * 16;
      __m512 x = _mm512_load_ps(at);
      if (visible < (g + 1) * 64) {
        const __m512i limit = _mm512_set1_epi32(visible - g * 64 - 4 * r);
        x = _mm512_mask_mov_ps(nothing, _mm512_cmplt_epi32_mask(token, limit), x);
        _mm512_store_ps(at, x);
      }
      best = _mm512_max_ps(best, x);
    }
  }
  return _mm512_reduce_max_ps(best);
}

// Weights of a row: high and low bytes, each [groups * 64], tokens in their order. Returns their
// sum.
inline int64_t byte_weights(const float* s, int groups, float largest, uint32_t seed, uint8_t* high,
                            uint8_t* low) {
  const __m512 scale = _mm512_set1_ps(1.4426950408889634f);
  const __m512 shift = _mm512_set1_ps(-largest * 1.4426950408889634f);
  // 65535 steps with 15 bits behind the point, which meet a dither of 15 bits: the fractional parts
  // of multiples of the golden ratio, which fill every stretch evenly.
  const __m512 steps = _mm512_set1_ps(65535.0f * 32768.0f);
  const uint32_t golden = 2654435769u;
  __m512i dither = _mm512_add_epi32(
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(static_cast<int>(golden))),
      _mm512_set1_epi32(static_cast<int>(seed)));
  const __m512i next = _mm512_set1_epi32(static_cast<int>(golden * 16u));
  const __m512i byte = _mm512_set1_epi16(255);
  __m512i total = _mm512_setzero_si512();
  for (int g = 0; g < groups; ++g) {
    __m512i w[4];
    for (int r = 0; r < 4; ++r) {
      const __m512 x = _mm512_fmadd_ps(_mm512_load_ps(s + g * 64 + r * 16), scale, shift);
      const __m512i fixed = _mm512_cvttps_epi32(_mm512_mul_ps(exp2_of(x), steps));
      w[r] = _mm512_srli_epi32(_mm512_add_epi32(fixed, _mm512_srli_epi32(dither, 17)), 15);
      // The largest weight may round up past the last step.
      w[r] = _mm512_min_epu32(w[r], _mm512_set1_epi32(65535));
      dither = _mm512_add_epi32(dither, next);
      total = _mm512_add_epi32(total, w[r]);
    }
    const __m512i a = _mm512_packus_epi32(w[0], w[1]), b = _mm512_packus_epi32(w[2], w[3]);
    _mm512_store_si512(low + g * 64,
                       _mm512_packus_epi16(_mm512_and_si512(a, byte), _mm512_and_si512(b, byte)));
    _mm512_store_si512(high + g * 64,
                       _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
  }
  return _mm512_reduce_add_epi32(total);
}
