// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Codes to float rows in the transformed space. Included by all.h.

// A head's centroids as floats times their scale, [num_codes][size][d].
inline void centroid_table(const Side& side, int64_t head, float* table) {
  const int64_t count =
      int64_t(side.format.num_codes) * side.format.size() * side.format.subvector_dim;
  const int8_t* centroids = side.head_centroids(head);
  const float unit = side.centroid_scale[head];
  for (int64_t i = 0; i < count; ++i) table[i] = centroids[i] * unit;
}

template <int kDim, bool kAdd>
VECINFER_INLINE void put_entry(const float* entries, int64_t code, float* to) {
  const float* entry = entries + code * kDim;
  if (kAdd) {
    for (int j = 0; j < kDim; ++j) to[j] += entry[j];
  } else {
    __builtin_memcpy(to, entry, kDim * sizeof(float));
  }
}

// 8-bit codes that lie side by side in runs of kRun, read as one word.
template <int kDim, bool kAdd, int kRun>
VECINFER_INLINE void run_rows(const uint8_t* codes, const uint16_t* position, int subs, int count,
                              const float* entries, float* rows, int64_t stride) {
  for (int t = 0; t < count; ++t) {
    const uint16_t* place = position + t * subs;
    float* to = rows + t * stride;
    for (int s = 0; s < subs; s += kRun) {
      uint32_t word = 0;
      __builtin_memcpy(&word, codes + place[s], kRun);
      for (int i = 0; i < kRun; ++i) {
        put_entry<kDim, kAdd>(entries, word >> (8 * i) & 255, to + (s + i) * kDim);
      }
    }
  }
}

template <int kDim, bool kAdd>
VECINFER_INLINE void level_rows(const Planes& planes, const uint8_t* codes, int first, int count,
                                const float* entries, float* rows, int64_t stride) {
  const int subs = planes.subvectors;
  const uint16_t* position = planes.position + first * subs;
  if (planes.bits > 8) {
    for (int t = 0; t < count; ++t) {
      for (int s = 0; s < subs; ++s) {
        const int code = planes.wide(codes, position[t * subs + s]);
        put_entry<kDim, kAdd>(entries, code, rows + t * stride + s * kDim);
      }
    }
  } else if (planes.run == 4) {
    run_rows<kDim, kAdd, 4>(codes, position, subs, count, entries, rows, stride);
  } else if (planes.run == 2) {
    run_rows<kDim, kAdd, 2>(codes, position, subs, count, entries, rows, stride);
  } else {
    run_rows<kDim, kAdd, 1>(codes, position, subs, count, entries, rows, stride);
  }
}

template <int kDim>
VECINFER_INLINE void token_rows(const Planes& given, const float* table, const uint8_t* plane,
                                int first, int count, float* rows, int64_t stride) {
  const Planes planes = given;  // a copy that no store can change
  for (int level = 0; level < planes.num_codes; ++level) {
    const float* entries = table + (int64_t(level) << planes.bits) * kDim;
    const uint8_t* codes = plane + level * planes.plane_size;
    if (level == 0) {
      level_rows<kDim, false>(planes, codes, first, count, entries, rows, stride);
    } else {
      level_rows<kDim, true>(planes, codes, first, count, entries, rows, stride);
    }
  }
}

// Tokens first .. first + count of one side of a tile to rows [count][stride].
inline void tile_rows(const Planes& planes, int subvector_dim, const float* table,
                      const uint8_t* plane, int first, int count, float* rows, int64_t stride) {
  if (subvector_dim == 2) token_rows<2>(planes, table, plane, first, count, rows, stride);
  if (subvector_dim == 4) token_rows<4>(planes, table, plane, first, count, rows, stride);
  if (subvector_dim == 8) token_rows<8>(planes, table, plane, first, count, rows, stride);
}
