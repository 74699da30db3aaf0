// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Scores of 64 tokens for all query rows of a pair. Keys become dwords of four bytes (elements of
// centroids + 128); a query element has 15 or 22 bits, in two or three bytes of signs of their own.
// Included by isa/vnni.cpp.

// Queries as bytes. Dword (column * rows + row) * parts + part holds four elements; the first part
// is the highest.
struct ByteQueries {
  int rows, columns;  // columns: num_codes * D / 4
  int parts;
  int32_t* dwords;
  int32_t* start;  // [rows][parts]: minus 128 times the sum of all elements of a part
  float* unit;     // [rows]: one integer step in scores
  bool* broken;    // [rows]: an element is not finite
};

constexpr int kMostParts = 3;

inline bool is_finite_row(const float* row, int dim, float* most) {
  *most = 0.0f;
  bool finite = true;
  for (int i = 0; i < dim; ++i) {
    const float size = __builtin_fabsf(row[i]);
    finite = finite && size <= 3.0e38f;
    *most = size > *most ? size : *most;
  }
  return finite;
}

// Two parts err by unit / sqrt(12) times the norm of a key in each score. Where states are float32
// and that could exceed 2^-11, three parts are taken.
inline int query_parts(const DecodeParams& p, int64_t head, const float* query, int rows) {
  if (p.query.dtype != Dtype::kFloat) return 2;
  for (int r = 0; r < rows; ++r) {
    float most;
    is_finite_row(query + r * p.key_stride(), p.key.head_dim, &most);
    const float unit = most / (127 * 128) * p.key.centroid_scale[head];
    const float norm = 127.0f * __builtin_sqrtf(static_cast<float>(p.key.head_dim));
    if (unit * norm * 0.2887f > 4.8828125e-4f) return 3;
  }
  return 2;
}

inline void make_byte_queries(const DecodeParams& p, int64_t head, const float* query,
                              ByteQueries& to) {
  const int dim = p.key.head_dim, quads = dim / 4, parts = to.parts;
  const float steps = parts == 2 ? 127.0f * 128.0f : 127.0f * 16384.0f;
  for (int r = 0; r < to.rows; ++r) {
    const float* row = query + r * p.key_stride();
    float most;
    const bool finite = is_finite_row(row, dim, &most);
    to.broken[r] = !finite;
    const float unit = most > 0.0f && finite ? most / steps : 1.0f;
    to.unit[r] = unit * p.key.centroid_scale[head];
    int sums[kMostParts] = {0, 0, 0};
    for (int column = 0; column < to.columns; ++column) {
      uint32_t words[kMostParts] = {0, 0, 0};
      for (int j = 0; j < 4 && finite; ++j) {
        int x = static_cast<int>(__builtin_lrintf(row[column % quads * 4 + j] / unit));
        for (int part = parts - 1; part >= 0; --part) {
          const int rest = part > 0 ? (x + 64) >> 7 : 0, low = x - 128 * rest;
          words[part] |= static_cast<uint32_t>(static_cast<uint8_t>(low)) << (8 * j);
          sums[part] += low;
          x = rest;
        }
      }
      for (int part = 0; part < parts; ++part) {
        to.dwords[(column * to.rows + r) * parts + part] = static_cast<int32_t>(words[part]);
      }
    }
    for (int part = 0; part < parts; ++part) to.start[r * parts + part] = -128 * sums[part];
  }
}

// The codes of one sub-vector column to dwords of 64 tokens. Dword e of lane l of register r is
// token 16 l + 4 r + e.
VECINFER_INLINE void key_dwords(bytes64 codes, const bytes64 tables[4][4], uint8_t* out) {
  const __mmask64 upper = _mm512_movepi8_mask(codes);
  bytes64 v[4];
  for (int j = 0; j < 4; ++j) v[j] = look_up(codes, upper, tables[j]);
  const bytes64 low01 = _mm512_unpacklo_epi8(v[0], v[1]), high01 = _mm512_unpackhi_epi8(v[0], v[1]);
  const bytes64 low23 = _mm512_unpacklo_epi8(v[2], v[3]), high23 = _mm512_unpackhi_epi8(v[2], v[3]);
  _mm512_store_si512(out, _mm512_unpacklo_epi16(low01, low23));
  _mm512_store_si512(out + 64, _mm512_unpackhi_epi16(low01, low23));
  _mm512_store_si512(out + 128, _mm512_unpacklo_epi16(high01, high23));
  _mm512_store_si512(out + 192, _mm512_unpackhi_epi16(high01, high23));
}

// keys: [columns][4] vectors. codes: [num_codes][S] vectors of 64 tokens.
inline void key_columns(const Side& side, const uint8_t* tables, const uint8_t* codes,
                        uint8_t* keys) {
  const int d = side.format.subvector_dim, subs = side.num_subvectors(), parts = d / 4;
  for (int level = 0; level < side.format.num_codes; ++level) {
    for (int part = 0; part < parts; ++part) {
      bytes64 t[4][4];
      for (int j = 0; j < 4; ++j) {
        for (int i = 0; i < 4; ++i) {
          t[j][i] = _mm512_load_si512(tables + (level * d + part * 4 + j) * 256 + 64 * i);
        }
      }
      for (int s = 0; s < subs; ++s) {
        const int column = level * (side.head_dim / 4) + s * parts + part;
        key_dwords(_mm512_load_si512(codes + (level * subs + s) * 64), t, keys + column * 256);
      }
    }
  }
}

// Scores of kRows query rows and 16 * kRegisters tokens, registers first ... of each column.
template <int kRows, int kRegisters, int kParts>
VECINFER_INLINE void key_products(const ByteQueries& q, int row, const uint8_t* keys, int first,
                                  const float* offset, float* out, int64_t out_stride) {
  __m512i sum[kRows][kParts][kRegisters];
  for (int r = 0; r < kRows; ++r) {
    for (int part = 0; part < kParts; ++part) {
      for (int i = 0; i < kRegisters; ++i) {
        sum[r][part][i] = _mm512_set1_epi32(q.start[(row + r) * kParts + part]);
      }
    }
  }
  const int32_t* dwords = q.dwords + row * kParts;
  for (int column = 0; column < q.columns; ++column, dwords += q.rows * kParts) {
    __m512i key[kRegisters];
    for (int i = 0; i < kRegisters; ++i) {
      key[i] = _mm512_load_si512(keys + column * 256 + (first + i) * 64);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int part = 0; part < kParts; ++part) {
        const __m512i query = _mm512_set1_epi32(dwords[r * kParts + part]);
        for (int i = 0; i < kRegisters; ++i) {
          sum[r][part][i] = _mm512_dpbusd_epi32(sum[r][part][i], key[i], query);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const __m512 unit = _mm512_set1_ps(q.unit[row + r]), add = _mm512_set1_ps(offset[row + r]);
    for (int i = 0; i < kRegisters; ++i) {
      __m512 whole = _mm512_cvtepi32_ps(sum[r][0][i]);
      for (int part = 1; part < kParts; ++part) {
        whole = _mm512_fmadd_ps(whole, _mm512_set1_ps(128.0f), _mm512_cvtepi32_ps(sum[r][part][i]));
      }
      _mm512_store_ps(out + (row + r) * out_stride + (first + i) * 16,
                      _mm512_fmadd_ps(whole, unit, add));
    }
  }
}

template <int kParts>
inline void key_score_rows(const ByteQueries& q, const uint8_t* keys, const float* offset,
                           float* out, int64_t out_stride) {
  int row = 0;
  for (; row + 4 <= q.rows; row += 4) {
    key_products<4, 2, kParts>(q, row, keys, 0, offset, out, out_stride);
    key_products<4, 2, kParts>(q, row, keys, 2, offset, out, out_stride);
  }
  if (q.rows - row == 3) {
    key_products<3, 2, kParts>(q, row, keys, 0, offset, out, out_stride);
    key_products<3, 2, kParts>(q, row, keys, 2, offset, out, out_stride);
  } else if (q.rows - row == 2) {
    key_products<2, 4, kParts>(q, row, keys, 0, offset, out, out_stride);
  } else if (q.rows - row == 1) {
    key_products<1, 4, kParts>(q, row, keys, 0, offset, out, out_stride);
  }
}

// out [rows][out_stride]: the scores of 64 tokens in the order of key_dwords.
inline void key_scores(const ByteQueries& q, const uint8_t* keys, const float* offset, float* out,
                       int64_t out_stride) {
  if (q.parts == 2) {
    key_score_rows<2>(q, keys, offset, out, out_stride);
  } else {
    key_score_rows<3>(q, keys, offset, out, out_stride);
  }
}
