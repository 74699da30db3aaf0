// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// decode_attention in float32 for every format: exact tokens, codes as float rows, the merge.
// Included by all.h.

// A pair's queries times softmax_scale, [R][key_stride], zeros behind D.
inline void query_rows(const DecodeParams& p, int64_t batch, int64_t head, float* rows) {
  const int dim = p.key.head_dim;
  const int64_t stride = p.key_stride();
  for (int r = 0; r < p.rows(); ++r) {
    float* to = rows + r * stride;
    load_floats(p.query.row(batch, head * p.group + r / p.queries, r % p.queries), p.query.dtype,
                to, dim);
    for (int i = 0; i < dim; ++i) to[i] *= p.softmax_scale;
    for (int64_t i = dim; i < stride; ++i) to[i] = 0.0f;
  }
}

// Queries for codes, in the transformed space, and what the keys' mean adds to all scores of a row.
inline void code_queries(const DecodeParams& p, int64_t batch, int64_t head, float* rows,
                         float* offset) {
  Scratch scratch;
  const int dim = p.key.head_dim, count = p.rows();
  const int64_t stride = p.key_stride();
  float* plain = scratch.floats(count * stride);
  query_rows(p, batch, head, plain);
  for (int r = 0; r < count; ++r) {
    offset[r] = 0.0f;
    if (p.key.transform.mean == nullptr) continue;
    const float* mean = p.key.transform.mean + head * dim;
    for (int i = 0; i < dim; ++i) offset[r] += plain[r * stride + i] * mean[i];
  }
  for (int64_t i = 0; i < count * stride; ++i) rows[i] = 0.0f;
  Transform transform = p.key.transform;
  transform.mean = nullptr;
  forward(transform, head, dim, plain, stride, count, rows);
}

// Consecutive exact tokens in memory.
struct Run {
  const StatesView* views;  // of keys and values
  int first, count;
};

inline void attend_exact(const DecodeParams& p, int64_t batch, int64_t head, Part& part) {
  Scratch scratch;
  const int rows = p.rows(), length = p.length(batch);
  const int64_t key_stride = p.key_stride(), value_stride = p.value_stride();
  clear(part, rows, value_stride);
  const int sinks = length < p.num_sinks ? length : p.num_sinks;
  const int coded = p.quantized[batch] > 0 ? p.quantized[batch] : 0;
  int ring = length - sinks - coded;
  ring = ring < 0 || p.num_slots == 0 ? 0 : ring < p.num_slots ? ring : p.num_slots;
  const int start = p.num_slots > 0 ? coded % p.num_slots : 0;
  const int before_end = ring < p.num_slots - start ? ring : p.num_slots - start;
  const Run runs[3] = {
      {p.sinks, 0, sinks}, {p.ring, start, before_end}, {p.ring, 0, ring - before_end}};
  float* query = scratch.floats(rows * key_stride);
  query_rows(p, batch, head, query);
  float* weights = scratch.floats(int64_t(rows) * kBlock);
  float* copies[2] = {scratch.floats(kTile * key_stride), scratch.floats(kTile * value_stride)};
  for (int64_t i = 0; i < kTile * key_stride; ++i) copies[0][i] = 0.0f;
  for (int64_t i = 0; i < kTile * value_stride; ++i) copies[1][i] = 0.0f;
  // Up to 32 tokens of a run as rows of floats, where they are or copied.
  const auto tokens = [&](const Run& run, int side, int first, int count, int64_t* stride) {
    const StatesView& view = run.views[side];
    const int dim = side == 0 ? p.key.head_dim : p.value.head_dim;
    const float* there = reinterpret_cast<const float*>(view.row(batch, head, run.first + first));
    *stride = view.token_stride;
    if (view.dtype == Dtype::kFloat && dim % 16 == 0) return there;
    *stride = side == 0 ? key_stride : value_stride;
    for (int t = 0; t < count; ++t) {
      load_floats(view.row(batch, head, run.first + first + t), view.dtype,
                  copies[side] + t * *stride, dim);
    }
    return static_cast<const float*>(copies[side]);
  };
  // Blocks of kBlock tokens at most, of one run each; `done` counts tokens in front of them. The
  // tokens a row sees, without codes, are the first ones of this order.
  int done = 0;
  for (const Run& run : runs) {
    for (int at = 0; at < run.count; at += kBlock) {
      const int count = run.count - at < kBlock ? run.count - at : kBlock;
      int64_t stride;
      for (int t = 0; t < count; t += kTile) {
        const int some = count - t < kTile ? count - t : kTile;
        const float* keys = tokens(run, 0, at + t, some, &stride);
        scores(query, key_stride, rows, keys, stride, some, key_stride, weights + t);
      }
      for (int r = 0; r < rows; ++r) {
        const int seen = p.seen(batch, r);
        const int visible =
            seen <= sinks ? seen : sinks + (seen - sinks > coded ? seen - sinks - coded : 0);
        take_scores(part, r, value_stride, weights + r * kBlock, count, visible - done, p.softcap);
      }
      for (int t = 0; t < count; t += kTile) {
        const int some = count - t < kTile ? count - t : kTile;
        const float* values = tokens(run, 1, at + t, some, &stride);
        add_values(weights + t, rows, values, stride, some, value_stride, part.output,
                   value_stride);
      }
      done += count;
    }
  }
}

inline void attend_codes(const DecodeParams& p, int64_t batch, int64_t head, int first, int last,
                         Part& part) {
  Scratch scratch;
  const int rows = p.rows();
  const int64_t key_stride = p.key_stride(), value_stride = p.value_stride();
  clear(part, rows, value_stride);
  float* query = scratch.floats(rows * key_stride);
  float* offset = scratch.floats(rows);
  code_queries(p, batch, head, query, offset);
  const auto table = [&](const Side& side) {
    const CodeFormat& f = side.format;
    float* entries = scratch.floats(int64_t(f.num_codes) * f.size() * f.subvector_dim);
    centroid_table(side, head, entries);
    return entries;
  };
  const float *key_table = table(p.key), *value_table = table(p.value);
  const int64_t widest = key_stride > value_stride ? key_stride : value_stride;
  float* tokens = scratch.floats(kTile * widest);
  float* weights = scratch.floats(int64_t(rows) * kBlock);
  for (int64_t i = 0; i < kTile * widest; ++i) tokens[i] = 0.0f;
  for (int at = first; at < last; at += kBlock) {
    const int count = last - at < kBlock ? last - at : kBlock;
    for (int t = 0; t < count; t += kTile) {
      const int some = count - t < kTile ? count - t : kTile;
      const uint8_t* tile = p.codes.tile(batch, head, (at + t) / kTile);
      tile_rows(p.key_planes, p.key.format.subvector_dim, key_table, tile, 0, some, tokens,
                key_stride);
      scores(query, key_stride, rows, tokens, key_stride, some, key_stride, weights + t);
    }
    for (int r = 0; r < rows; ++r) {
      float* s = weights + r * kBlock;
      if (offset[r] != 0.0f) {
        for (int i = 0; i < count; ++i) s[i] += offset[r];
      }
      take_scores(part, r, value_stride, s, count, p.codes_seen(batch, r) - at, p.softcap);
    }
    // Keys may have left numbers where values end in zeros.
    if (key_stride != value_stride) {
      for (int64_t i = 0; i < kTile * widest; ++i) tokens[i] = 0.0f;
    }
    for (int t = 0; t < count; t += kTile) {
      const int some = count - t < kTile ? count - t : kTile;
      const uint8_t* tile = p.codes.tile(batch, head, (at + t) / kTile) + p.value.tile_offset;
      tile_rows(p.value_planes, p.value.format.subvector_dim, value_table, tile, 0, some, tokens,
                value_stride);
      add_values(weights + t, rows, tokens, value_stride, some, value_stride, part.output,
                 value_stride);
    }
    if (key_stride != value_stride) {
      for (int64_t i = 0; i < kTile * widest; ++i) tokens[i] = 0.0f;
    }
  }
}

inline void finish(const DecodeParams& p, int64_t batch, int64_t head, const Part* codes,
                   int num_parts, const Part& exact) {
  Scratch scratch;
  const int rows = p.rows(), dim = p.value.head_dim;
  const int64_t stride = p.value_stride();
  float* sum = scratch.floats(rows * stride);
  float* plain = scratch.floats(rows * stride);
  float* maximum = scratch.floats(rows);
  float* total = scratch.floats(rows);
  for (int64_t i = 0; i < rows * stride; ++i) sum[i] = plain[i] = 0.0f;
  for (int r = 0; r < rows; ++r) {
    maximum[r] = -__builtin_inff();
    total[r] = 0.0f;
    for (int i = 0; i < num_parts; ++i) {
      if (codes[i].maximum[r] > maximum[r]) maximum[r] = codes[i].maximum[r];
    }
    for (int i = 0; i < num_parts; ++i) {
      if (codes[i].total[r] == 0.0f) continue;
      const float scale = __builtin_expf(codes[i].maximum[r] - maximum[r]);
      total[r] += codes[i].total[r] * scale;
      const float* from = codes[i].output + r * stride;
      for (int d = 0; d < dim; ++d) sum[r * stride + d] += from[d] * scale;
    }
    if (total[r] == 0.0f) continue;
    for (int d = 0; d < dim; ++d) sum[r * stride + d] *= 1.0f / total[r];
  }
  inverse(p.value.transform, p.value.transform.weight + head * dim * dim, head, dim, sum, stride,
          rows, plain);
  for (int r = 0; r < rows; ++r) {
    const int query_head = static_cast<int>(head) * p.group + r / p.queries;
    const float extra = p.sink_logits != nullptr ? p.sink_logits[query_head] : -__builtin_inff();
    float most = maximum[r] > exact.maximum[r] ? maximum[r] : exact.maximum[r];
    most = extra > most ? extra : most;
    const float base = most == -__builtin_inff() ? 0.0f : most;
    const float code_weight =
        total[r] == 0.0f ? 0.0f : total[r] * __builtin_expf(maximum[r] - base);
    const float exact_scale =
        exact.total[r] == 0.0f ? 0.0f : __builtin_expf(exact.maximum[r] - base);
    float all = code_weight + exact.total[r] * exact_scale;
    if (p.sink_logits != nullptr) all += __builtin_expf(extra - base);
    float* to = plain + r * stride;
    const float* from = exact.output + r * stride;
    const float inverse_all = all == 0.0f ? 0.0f : 1.0f / all;
    for (int d = 0; d < dim; ++d) {
      const float code = code_weight == 0.0f ? 0.0f : to[d] * code_weight;
      to[d] = (code + from[d] * exact_scale) * inverse_all;
    }
    const int64_t place = (batch * p.heads * p.group + query_head) * p.queries + r % p.queries;
    store_floats(to,
                 static_cast<char*>(p.out) + place * dim * (p.query.dtype == Dtype::kFloat ? 4 : 2),
                 p.query.dtype, dim);
    p.lse[place] = base + __builtin_logf(all);
  }
}
