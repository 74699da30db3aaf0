// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Attention over 8-bit codes by table look-ups and integer dot products, block by block of 2048
// tokens. Errors: query_parts says of scores, and a weight is off by 2^-16 of the block's largest,
// with errors that cancel in sums. Included by isa/vnni.cpp.

// Sub-vectors of 4 or 8 elements with 8-bit codes.
inline bool is_fast(const Side& side) {
  return side.format.bits_per_code == 8 && side.format.subvector_dim >= 4;
}

constexpr int kRowsAtOnce = 16;

// Rows first_row .. first_row + q.rows of a pair.
inline void attend_rows(const DecodeParams& p, int64_t batch, int64_t head, int first, int last,
                        int first_row, const ByteQueries& q, const float* offset, Part& part) {
  Scratch scratch;
  const Side &key = p.key, &value = p.value;
  const int key_subs = key.num_subvectors(), value_subs = value.num_subvectors();
  const auto memory = [&](int64_t size) { return static_cast<uint8_t*>(scratch.bytes(size)); };
  uint8_t* key_tables = memory(key.format.num_codes * key.format.subvector_dim * 256);
  uint8_t* value_tables = memory(value.format.num_codes * value.format.subvector_dim * 256);
  element_tables(key, head, 0x80, key_tables);  // + 128: the first factor has no sign
  element_tables(value, head, 0, value_tables);
  const TransposePlan& key_plan = transpose_plan(p.key_planes, false);
  const TransposePlan& value_plan = transpose_plan(p.value_planes, true);
  uint8_t* work = memory((key_subs > value_subs ? key_subs : value_subs) * 64);
  uint8_t* key_codes = memory(int64_t(key.format.num_codes) * key_subs * 64);
  uint8_t* keys = memory(q.columns * 256);
  uint8_t* value_codes = memory(int64_t(value.format.num_codes) * value_subs * kBlockTokens);
  uint8_t* weights = memory(int64_t(q.rows) * 2 * kBlockTokens);
  float* scores = scratch.floats(int64_t(q.rows) * kBlockTokens);
  const int64_t stride = p.value_stride();

  for (int at = first; at < last; at += kBlockTokens) {
    const int count = last - at < kBlockTokens ? last - at : kBlockTokens;
    const int groups = (count + 63) / 64;
    // The two tiles of a group; behind the last tile the last one once more, which nobody sees.
    const int last_tile = (last - 1) / kTile;
    const auto tile = [&](int group, int second) {
      const int index = at / kTile + group * 2 + second;
      return p.codes.tile(batch, head, index < last_tile ? index : last_tile);
    };
    for (int g = 0; g < groups; ++g) {
      for (int level = 0; level < key.format.num_codes; ++level) {
        const int64_t plane = level * p.key_planes.plane_size;
        transpose(key_plan, p.key_planes, tile(g, 0) + plane, tile(g, 1) + plane, work,
                  key_codes + level * key_subs * 64, 64);
      }
      key_columns(key, key_tables, key_codes, keys);
      key_scores(q, keys, offset, scores + g * 64, kBlockTokens);
    }
    for (int g = 0; g < groups; ++g) {
      for (int level = 0; level < value.format.num_codes; ++level) {
        const int64_t plane = value.tile_offset + level * p.value_planes.plane_size;
        transpose(value_plan, p.value_planes, tile(g, 0) + plane, tile(g, 1) + plane, work,
                  value_codes + int64_t(level) * value_subs * kBlockTokens + g * 64, kBlockTokens);
      }
    }
    float scale[kRowsAtOnce];
    for (int r = 0; r < q.rows; ++r) {
      const int row = first_row + r;
      float* s = scores + int64_t(r) * kBlockTokens;
      uint8_t* w = weights + int64_t(r) * 2 * kBlockTokens;
      int visible = p.codes_seen(batch, row) - at;
      visible = visible < 0 ? 0 : visible < count ? visible : count;
      const float largest = largest_score(s, groups, visible, p.softcap);
      scale[r] = 0.0f;
      if (visible == 0) {
        for (int i = 0; i < groups * 64; ++i) w[i] = w[kBlockTokens + i] = 0;
        continue;
      }
      const int64_t total = byte_weights(s, groups, largest, static_cast<uint32_t>(row * 7919 + at),
                                         w, w + kBlockTokens);
      const float old = part.maximum[row], maximum = largest > old ? largest : old;
      const float decay = __builtin_expf(old - maximum), share = __builtin_expf(largest - maximum);
      scale[r] = share * value.centroid_scale[head] / 65535.0f;
      part.total[row] = part.total[row] * decay + share * static_cast<float>(total) / 65535.0f;
      part.maximum[row] = maximum;
      float* output = part.output + row * stride;
      for (int64_t d = 0; d < stride; ++d) output[d] *= decay;
    }
    for (int r = 0; r < q.rows; r += 4) {
      const uint8_t* w = weights + int64_t(r) * 2 * kBlockTokens;
      float* output = part.output + (first_row + r) * stride;
      switch (q.rows - r) {
        case 1:
          add_value_rows<1>(value, value_tables, value_codes, w, groups, scale + r, output, stride);
          break;
        case 2:
          add_value_rows<2>(value, value_tables, value_codes, w, groups, scale + r, output, stride);
          break;
        case 3:
          add_value_rows<3>(value, value_tables, value_codes, w, groups, scale + r, output, stride);
          break;
        default:
          add_value_rows<4>(value, value_tables, value_codes, w, groups, scale + r, output, stride);
      }
    }
  }
}

void attend_codes(const DecodeParams& p, int64_t batch, int64_t head, int first, int last,
                  Part& part) {
  if (!is_fast(p.key) || !is_fast(p.value)) {
    avx512::kernels.attend_codes(p, batch, head, first, last, part);
    return;
  }
  Scratch scratch;
  const int rows = p.rows();
  const int64_t key_stride = p.key_stride();
  float* query = scratch.floats(rows * key_stride);
  float* offset = scratch.floats(rows);
  avx512::kernels.code_queries(p, batch, head, query, offset);
  for (int r = 0; r < rows; ++r) {
    part.maximum[r] = -__builtin_inff();
    part.total[r] = 0.0f;
  }
  for (int64_t i = 0; i < rows * p.value_stride(); ++i) part.output[i] = 0.0f;
  ByteQueries q;
  q.columns = p.key.format.num_codes * p.key.head_dim / 4;
  q.parts = query_parts(p, head, query, rows);
  q.dwords = scratch.ints(int64_t(q.columns) * kRowsAtOnce * kMostParts);
  q.start = scratch.ints(kRowsAtOnce * kMostParts);
  q.unit = scratch.floats(kRowsAtOnce);
  bool broken[kRowsAtOnce];
  q.broken = broken;
  for (int row = 0; row < rows; row += kRowsAtOnce) {
    q.rows = rows - row < kRowsAtOnce ? rows - row : kRowsAtOnce;
    make_byte_queries(p, head, query + row * key_stride, q);
    attend_rows(p, batch, head, first, last, row, q, offset + row, part);
    for (int r = 0; r < q.rows; ++r) {
      if (broken[r]) part.maximum[row + r] = part.total[row + r] = __builtin_nanf("");
    }
  }
}
