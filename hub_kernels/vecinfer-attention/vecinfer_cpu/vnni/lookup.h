// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Codes of 64 tokens to bytes of their centroids: a table of 256 bytes is four registers. Included
// by isa/vnni.cpp behind its target pragma.

using bytes64 = __m512i;

// A table's entry for each of 64 codes.
VECINFER_INLINE bytes64 look_up(bytes64 codes, __mmask64 upper, const bytes64 table[4]) {
  const bytes64 low = _mm512_permutex2var_epi8(table[0], codes, table[1]);
  return _mm512_mask_mov_epi8(low, upper, _mm512_permutex2var_epi8(table[2], codes, table[3]));
}

// Tables of single elements: entry c of table (level, element) is that element of centroid c.
inline void element_tables(const Side& side, int64_t head, uint8_t flip, uint8_t* tables) {
  const int d = side.format.subvector_dim;
  for (int level = 0; level < side.format.num_codes; ++level) {
    const int8_t* centroids = side.head_centroids(head, level);
    for (int j = 0; j < d; ++j) {
      uint8_t* table = tables + (level * d + j) * 256;
      for (int c = 0; c < 256; ++c) table[c] = static_cast<uint8_t>(centroids[c * d + j]) ^ flip;
    }
  }
}

// One level of a side of two tiles to [S] vectors of 64 tokens, `stride` bytes apart. `work` has
// room for S vectors.
inline void transpose(const TransposePlan& plan, const Planes& planes, const uint8_t* first,
                      const uint8_t* second, uint8_t* work, uint8_t* out, int64_t stride) {
  if (plan.registers == 0) {
    for (int t = 0; t < 64; ++t) {
      const uint8_t* plane = t < kTile ? first : second;
      const uint16_t* position = planes.position + (t % kTile) * planes.subvectors;
      for (int s = 0; s < planes.subvectors; ++s) out[s * stride + t] = plane[position[s]];
    }
    return;
  }
  const int half = plan.registers / 2, count = static_cast<int>(plan.steps.size());
  const TransposePlan::Step* steps = &plan.steps[0];
  for (int i = 0; i < count; ++i) {
    const bytes64 take_first = _mm512_load_si512(steps[i].first);
    const bytes64 take_second = _mm512_load_si512(steps[i].second);
    const int pair = steps[i].pair;
    for (int k = 0; k < half; ++k) {
      const int a = (k & ~(pair - 1)) * 2 + (k & (pair - 1)), b = a + pair;
      bytes64 x, y;
      if (i == 0) {
        x = _mm512_loadu_si512(a < half ? first + a * 64 : second + (a - half) * 64);
        y = _mm512_loadu_si512(b < half ? first + b * 64 : second + (b - half) * 64);
      } else {
        x = _mm512_load_si512(work + a * 64);
        y = _mm512_load_si512(work + b * 64);
      }
      const bytes64 u = _mm512_permutex2var_epi8(x, take_first, y);
      const bytes64 v = _mm512_permutex2var_epi8(x, take_second, y);
      if (i + 1 < count) {
        _mm512_store_si512(work + a * 64, u);
        _mm512_store_si512(work + b * 64, v);
      } else {
        _mm512_store_si512(out + plan.subvector[a] * stride, u);
        _mm512_store_si512(out + plan.subvector[b] * stride, v);
      }
    }
  }
}
