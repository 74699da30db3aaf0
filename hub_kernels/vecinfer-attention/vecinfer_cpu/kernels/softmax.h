// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Attention of R query rows over a block of float keys and values, with a running softmax. Rows of
// queries, keys and values end in zeros up to a multiple of 16. Included by all.h.

constexpr int kBlock = 256;  // scores of a row that are held at once

inline void clear(Part& part, int rows, int64_t stride) {
  for (int r = 0; r < rows; ++r) {
    part.maximum[r] = -__builtin_inff();
    part.total[r] = 0.0f;
  }
  for (int64_t i = 0; i < rows * stride; ++i) part.output[i] = 0.0f;
}

template <int kRows, int kTokens>
VECINFER_INLINE void score_block(const float* q, int64_t q_stride, const float* k, int64_t k_stride,
                                 int64_t dim, float* out) {
  vf sum[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) sum[r][t] = vf{};
  }
  for (int64_t d = 0; d < dim; d += kLanes) {
    vf key[kTokens];
    for (int t = 0; t < kTokens; ++t) key[t] = vload(k + t * k_stride + d);
    for (int r = 0; r < kRows; ++r) {
      const vf query = vload(q + r * q_stride + d);
      for (int t = 0; t < kTokens; ++t) sum[r][t] += query * key[t];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) out[r * kBlock + t] = vsum(sum[r][t]);
  }
}

template <int kRows>
VECINFER_INLINE void score_rows(const float* q, int64_t q_stride, const float* k, int64_t k_stride,
                                int tokens, int64_t dim, float* out) {
  int t = 0;
  for (; t + 4 <= tokens; t += 4) {
    score_block<kRows, 4>(q, q_stride, k + t * k_stride, k_stride, dim, out + t);
  }
  for (; t < tokens; ++t) {
    score_block<kRows, 1>(q, q_stride, k + t * k_stride, k_stride, dim, out + t);
  }
}

// out [rows][kBlock]: q . k for up to 32 tokens.
inline void scores(const float* q, int64_t q_stride, int rows, const float* k, int64_t k_stride,
                   int tokens, int64_t dim, float* out) {
  int r = 0;
  for (; r + 2 <= rows; r += 2) {
    score_rows<2>(q + r * q_stride, q_stride, k, k_stride, tokens, dim, out + r * kBlock);
  }
  if (r < rows)
    score_rows<1>(q + r * q_stride, q_stride, k, k_stride, tokens, dim, out + r * kBlock);
}

// Turns the first `visible` of a row's `count` scores into weights, the rest into zeros, and
// rescales what the row had before.
inline void take_scores(Part& part, int row, int64_t stride, float* s, int count, int visible,
                        float softcap) {
  const int whole = (count + kLanes - 1) / kLanes * kLanes;
  visible = visible < 0 ? 0 : visible < count ? visible : count;
  for (int i = visible; i < whole; ++i) s[i] = -__builtin_inff();
  vf best = vset(-__builtin_inff());
  for (int i = 0; i < whole; i += kLanes) {
    vf x = vload(s + i);
    if (softcap != 0.0f) {
      // The places behind `visible` stay -inf.
      x = vselect(x == -__builtin_inff(), x, softcap * vtanh(x * (1.0f / softcap)));
      vstore(s + i, x);
    }
    best = vmax(x, best);
  }
  const float old = part.maximum[row], found = vmaximum(best), maximum = found > old ? found : old;
  if (maximum == -__builtin_inff()) {
    // Nothing is visible, or nothing but NaN.
    if (visible > 0 && s[0] != s[0]) part.total[row] = s[0];
    for (int i = 0; i < whole; ++i) s[i] = 0.0f;
    return;
  }
  vf total = vf{};
  for (int i = 0; i < whole; i += kLanes) {
    const vf weight = vexp2((vload(s + i) - maximum) * kLog2e);
    vstore(s + i, weight);
    total += weight;
  }
  float decay = 1.0f;
  if (maximum != old) {
    decay = __builtin_expf(old - maximum);
    float* output = part.output + row * stride;
    for (int64_t d = 0; d < stride; d += kLanes) vstore(output + d, vload(output + d) * decay);
  }
  part.maximum[row] = maximum;
  part.total[row] = part.total[row] * decay + vsum(total);
}

template <int kRows, int kColumns>
VECINFER_INLINE void value_block(const float* weights, const float* v, int64_t v_stride, int tokens,
                                 float* out, int64_t out_stride) {
  vf sum[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) sum[r][c] = vload(out + r * out_stride + c * kLanes);
  }
  for (int t = 0; t < tokens; ++t) {
    vf value[kColumns];
    for (int c = 0; c < kColumns; ++c) value[c] = vload(v + t * v_stride + c * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const vf weight = vset(weights[r * kBlock + t]);
      for (int c = 0; c < kColumns; ++c) sum[r][c] += weight * value[c];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) vstore(out + r * out_stride + c * kLanes, sum[r][c]);
  }
}

template <int kRows>
VECINFER_INLINE void value_rows(const float* weights, const float* v, int64_t v_stride, int tokens,
                                int64_t dim, float* out, int64_t out_stride) {
  int64_t d = 0;
  for (; d + 2 * kLanes <= dim; d += 2 * kLanes) {
    value_block<kRows, 2>(weights, v + d, v_stride, tokens, out + d, out_stride);
  }
  for (; d < dim; d += kLanes) {
    value_block<kRows, 1>(weights, v + d, v_stride, tokens, out + d, out_stride);
  }
}

// out [rows][out_stride] += weights [rows][kBlock] times v [tokens][v_stride].
inline void add_values(const float* weights, int rows, const float* v, int64_t v_stride, int tokens,
                       int64_t dim, float* out, int64_t out_stride) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) {
    value_rows<4>(weights + r * kBlock, v, v_stride, tokens, dim, out + r * out_stride, out_stride);
  }
  for (; r < rows; ++r) {
    value_rows<1>(weights + r * kBlock, v, v_stride, tokens, dim, out + r * out_stride, out_stride);
  }
}
