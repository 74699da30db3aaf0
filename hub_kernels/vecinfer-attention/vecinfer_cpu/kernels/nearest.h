// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The nearest-centroid search, in float32 as quantizer.py does it: the largest x . c - |c|^2 / 2,
// the lowest index on ties. Points lie in lanes, by element: [dim][count]. Included by all.h.

constexpr int kPointBlock = 2 * kLanes;  // points come in multiples of this

template <int kDim>
VECINFER_INLINE void search(const float* points, int64_t count, const int8_t* centroids, int size,
                            float* table, int32_t* index) {
  // A centroid's elements and -|c|^2 / 2, which is exact.
  for (int c = 0; c < size; ++c) {
    float* row = table + c * (kDim + 1);
    float norm = 0.0f;
    for (int j = 0; j < kDim; ++j) {
      row[j] = centroids[c * kDim + j];
      norm += row[j] * row[j];
    }
    row[kDim] = -0.5f * norm;
  }
  for (int64_t p = 0; p < count; p += kPointBlock) {
    vf x[kDim][2], best[2];
    vi found[2] = {vi{}, vi{}};
    for (int j = 0; j < kDim; ++j) {
      for (int v = 0; v < 2; ++v) x[j][v] = vload(points + j * count + p + v * kLanes);
    }
    for (int v = 0; v < 2; ++v) best[v] = vset(-__builtin_inff());
    for (int c = 0; c < size; ++c) {
      const float* row = table + c * (kDim + 1);
      for (int v = 0; v < 2; ++v) {
        vf score = vset(row[kDim]);
        for (int j = 0; j < kDim; ++j) score += x[j][v] * row[j];
        const vi better = score > best[v];
        best[v] = vselect(better, score, best[v]);
        found[v] = vselect(better, vset(int32_t(c)), found[v]);
      }
    }
    for (int v = 0; v < 2; ++v) vstore(index + p + v * kLanes, found[v]);
  }
}

// rows: float [tokens][stride] in the model's space, changed. codes: [tokens][num_codes][S].
inline void quantize_rows(const Side& side, int64_t head, float* rows, int64_t stride, int tokens,
                          uint16_t* codes) {
  Scratch scratch;
  const int dim = side.head_dim, d = side.format.subvector_dim, subs = dim / d;
  const int64_t points = int64_t(tokens) * subs;
  const int64_t count = (points + kPointBlock - 1) / kPointBlock * kPointBlock;
  float* y = scratch.floats(int64_t(tokens) * stride);
  float* x = scratch.floats(count * d);
  float* table = scratch.floats(int64_t(side.format.size()) * (d + 1));
  int32_t* index = scratch.ints(count);
  forward(side.transform, head, dim, rows, stride, tokens, y);
  const float unit = side.centroid_scale[head];
  for (int j = 0; j < d; ++j) {
    float* to = x + j * count;
    for (int t = 0; t < tokens; ++t) {
      for (int s = 0; s < subs; ++s) to[t * subs + s] = y[t * stride + s * d + j] / unit;
    }
    for (int64_t p = points; p < count; ++p) to[p] = 0.0f;
  }
  for (int level = 0; level < side.format.num_codes; ++level) {
    const int8_t* centroids = side.head_centroids(head, level);
    if (d == 2) search<2>(x, count, centroids, side.format.size(), table, index);
    if (d == 4) search<4>(x, count, centroids, side.format.size(), table, index);
    if (d == 8) search<8>(x, count, centroids, side.format.size(), table, index);
    for (int t = 0; t < tokens; ++t) {
      uint16_t* to = codes + (int64_t(t) * side.format.num_codes + level) * subs;
      for (int s = 0; s < subs; ++s) to[s] = static_cast<uint16_t>(index[t * subs + s]);
    }
    if (level + 1 == side.format.num_codes) break;
    for (int j = 0; j < d; ++j) {
      for (int64_t p = 0; p < points; ++p) x[j * count + p] -= centroids[index[p] * d + j];
    }
  }
}
