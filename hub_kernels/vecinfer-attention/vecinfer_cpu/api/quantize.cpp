// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// quantize: checks and the division of work.
#include <algorithm>

#include "../../torch-ext/torch_binding.h"
#include "store.h"

namespace vecinfer {

void quantize(Tensor key_states, Tensor value_states, Tensor codes, OptionalTensor block_table,
              Tensor starts, Tensor counts, Tensor first, OptionalTensor key_mean,
              Tensor key_transform, Tensor key_centroids, Tensor key_centroid_scale,
              OptionalTensor value_mean, OptionalTensor value_transform, Tensor value_centroids,
              Tensor value_centroid_scale) {
  check_shape(key_states, "key_states", {-1, -1, -1, -1});
  states_dtype(key_states, "key_states");
  const int64_t batch = key_states.size(0), heads = key_states.size(1), tokens = key_states.size(2);
  const int64_t key_dim = key_states.size(3);
  check_shape(value_states, "value_states", {batch, heads, tokens, -1});
  const int64_t value_dim = value_states.size(3);
  check_head_dim(key_dim, "key_states");
  check_head_dim(value_dim, "value_states");
  const ScalarType type = key_states.scalar_type();
  const StatesView states[2] = {
      states_view(key_states, "key_states", type, batch, heads, tokens, key_dim),
      states_view(value_states, "value_states", type, batch, heads, tokens, value_dim)};
  Side sides[2] = {make_side(key_centroids, key_centroid_scale, false,
                             make_transform(key_transform, "key_transform", key_mean, "key_mean",
                                            heads, key_dim),
                             heads, key_dim),
                   make_side(value_centroids, value_centroid_scale, true,
                             make_transform(value_transform, "value_transform", value_mean,
                                            "value_mean", heads, value_dim),
                             heads, value_dim)};
  const CodesView view = codes_view(codes, block_table, sides[0], sides[1], batch, heads);
  const int* start = row_numbers(starts, "starts", batch);
  const int* count = row_numbers(counts, "counts", batch);
  const int* begin = row_numbers(first, "first", batch);
  if (batch * heads * tokens == 0) return;

  // Tokens and slots that are there; whole tiles go to a thread, so that no byte has two writers.
  struct Span {
    int64_t slot, token, count;
  };
  std::vector<Span> spans(static_cast<size_t>(batch));
  int64_t longest = 0;
  for (int64_t b = 0; b < batch; ++b) {
    Span& span = spans[static_cast<size_t>(b)];
    span = {start[b], begin[b], 0};
    if (start[b] < 0 || begin[b] < 0) continue;
    const int64_t room = std::min(tokens - span.token, view.num_tiles * kTile - span.slot);
    span.count = std::max<int64_t>(0, std::min<int64_t>(count[b], room));
    if (span.count == 0) continue;
    check_pages(view, b, span.slot / kTile, (span.slot + span.count + kTile - 1) / kTile);
    longest = std::max(longest, span.count);
  }
  if (longest == 0) return;
  constexpr int kChunk = 4 * kTile;
  const int64_t chunks = (longest + kTile - 1) / kChunk + 1;
  const Planes planes[2] = {planes_of(sides[0]), planes_of(sides[1])};
  const Kernels& kernels = select_kernels();
  const double cost =
      double(batch * heads * longest) * (quantize_cost(sides[0]) + quantize_cost(sides[1]));
  parallel(batch * heads * 2 * chunks, cost, [&](int64_t item) {
    const int64_t chunk = item % chunks, side = item / chunks % 2, pair = item / chunks / 2;
    const int64_t head = pair % heads, b = pair / heads;
    const Span& span = spans[static_cast<size_t>(b)];
    const int64_t base = span.slot / kTile * kTile + chunk * kChunk;
    const int64_t from = std::max(base, span.slot),
                  to = std::min(base + kChunk, span.slot + span.count);
    if (from >= to) return;
    const StatesView& rows = states[side];
    store_codes(kernels, view, sides[side], planes[side], b, head, from,
                static_cast<int>(to - from), rows.dtype,
                [&](int t) { return rows.row(b, head, span.token + from - span.slot + t); });
  });
}

}  // namespace vecinfer
