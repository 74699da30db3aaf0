// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Weighted sums of values over a block: the looked-up bytes of 64 tokens meet the weights' bytes of
// up to four query rows. Included by isa/vnni.cpp.

constexpr int kGroups = 32;  // of 64 tokens, in a block
constexpr int kBlockTokens = kGroups * 64;

// Sums over the lanes of 8 vectors, in their order.
VECINFER_INLINE __m256 sum_lanes(const __m512 v[8]) {
  __m256 h[8];
  for (int i = 0; i < 8; ++i) {
    h[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
  }
  const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(h[0], h[1]), _mm256_hadd_ps(h[2], h[3]));
  const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(h[4], h[5]), _mm256_hadd_ps(h[6], h[7]));
  const __m256 low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
  return _mm256_add_ps(low, high);
}

// Two elements of one sub-vector column. codes: of one sub-vector, [kGroups * 64] for each level,
// level_stride apart. tables: those of the two elements, level_tables apart. weights:
// [row][2][block].
template <int kRows>
VECINFER_INLINE void value_pair(const uint8_t* codes, int64_t level_stride, int levels,
                                const uint8_t* tables, int64_t level_tables, const uint8_t* weights,
                                int groups, float sums[2][4]) {
  __m512i sum[2][kRows][2];
  for (int j = 0; j < 2; ++j) {
    for (int r = 0; r < kRows; ++r) sum[j][r][0] = sum[j][r][1] = _mm512_setzero_si512();
  }
  for (int level = 0; level < levels; ++level) {
    bytes64 t[2][4];
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < 4; ++i) {
        t[j][i] = _mm512_load_si512(tables + level * level_tables + j * 256 + 64 * i);
      }
    }
    for (int g = 0; g < groups; ++g) {
      const bytes64 c = _mm512_load_si512(codes + level * level_stride + g * 64);
      const __mmask64 upper = _mm512_movepi8_mask(c);
      const bytes64 v0 = look_up(c, upper, t[0]), v1 = look_up(c, upper, t[1]);
      for (int r = 0; r < kRows; ++r) {
        for (int part = 0; part < 2; ++part) {
          const bytes64 w = _mm512_load_si512(weights + (r * 2 + part) * kBlockTokens + g * 64);
          sum[0][r][part] = _mm512_dpbusd_epi32(sum[0][r][part], w, v0);
          sum[1][r][part] = _mm512_dpbusd_epi32(sum[1][r][part], w, v1);
        }
      }
    }
  }
  // A lane's sum of high bytes is below 2^23, times 256 below 2^31.
  __m512 whole[8];
  for (int j = 0; j < 2; ++j) {
    for (int r = 0; r < 4; ++r) {
      whole[j * 4 + r] = r < kRows ? _mm512_cvtepi32_ps(_mm512_add_epi32(
                                         _mm512_slli_epi32(sum[j][r][0], 8), sum[j][r][1]))
                                   : _mm512_setzero_ps();
    }
  }
  _mm256_storeu_ps(&sums[0][0], sum_lanes(whole));
}

// output [row][D] += scale[row] * sums, for kRows rows of which the first's weights are given.
template <int kRows>
inline void add_value_rows(const Side& side, const uint8_t* tables, const uint8_t* codes,
                           const uint8_t* weights, int groups, const float* scale, float* output,
                           int64_t stride) {
  const int d = side.format.subvector_dim, subs = side.num_subvectors();
  for (int s = 0; s < subs; ++s) {
    for (int j = 0; j < d; j += 2) {
      float sums[2][4];
      value_pair<kRows>(codes + int64_t(s) * kBlockTokens, int64_t(subs) * kBlockTokens,
                        side.format.num_codes, tables + j * 256, d * 256, weights, groups, sums);
      for (int r = 0; r < kRows; ++r) {
        float* to = output + r * stride + s * d + j;
        to[0] += scale[r] * sums[0][r];
        to[1] += scale[r] * sums[1][r];
      }
    }
  }
}
