// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// append: what leaves a full ring becomes codes, then new tokens take their places, then lengths.
#include <algorithm>
#include <cstring>

#include "../../torch-ext/torch_binding.h"
#include "store.h"

namespace vecinfer {

void append(Tensor key_states, Tensor value_states, Tensor codes, OptionalTensor block_table,
            Tensor sink_keys, Tensor sink_values, Tensor ring_keys, Tensor ring_values,
            Tensor lengths, Tensor quantized_lengths, OptionalTensor key_mean, Tensor key_transform,
            Tensor key_centroids, Tensor key_centroid_scale, OptionalTensor value_mean,
            OptionalTensor value_transform, Tensor value_centroids, Tensor value_centroid_scale) {
  check_shape(key_states, "key_states", {-1, -1, -1, -1});
  states_dtype(key_states, "key_states");
  const int64_t batch = key_states.size(0), heads = key_states.size(1), tokens = key_states.size(2);
  check_shape(value_states, "value_states", {batch, heads, tokens, -1});
  const int64_t dims[2] = {key_states.size(3), value_states.size(3)};
  check_head_dim(dims[0], "key_states");
  check_head_dim(dims[1], "value_states");
  check_shape(sink_keys, "sink_keys", {batch, heads, -1, dims[0]});
  check_shape(ring_keys, "ring_keys", {batch, heads, -1, dims[0]});
  const int64_t num_sinks = sink_keys.size(2), slots = ring_keys.size(2);
  VECINFER_CHECK(tokens <= kDecodeTokens && tokens <= slots, "append takes at most ", kDecodeTokens,
                 " tokens at a time and no more than the ring's ", slots, " slots, not ", tokens,
                 "; use quantize for a prefill.");
  const ScalarType type = key_states.scalar_type();
  const StatesView states[2] = {
      states_view(key_states, "key_states", type, batch, heads, tokens, dims[0]),
      states_view(value_states, "value_states", type, batch, heads, tokens, dims[1])};
  const StatesView sinks[2] = {
      states_view(sink_keys, "sink_keys", type, batch, heads, num_sinks, dims[0]),
      states_view(sink_values, "sink_values", type, batch, heads, num_sinks, dims[1])};
  const StatesView ring[2] = {
      states_view(ring_keys, "ring_keys", type, batch, heads, slots, dims[0]),
      states_view(ring_values, "ring_values", type, batch, heads, slots, dims[1])};
  Side sides[2] = {make_side(key_centroids, key_centroid_scale, false,
                             make_transform(key_transform, "key_transform", key_mean, "key_mean",
                                            heads, dims[0]),
                             heads, dims[0]),
                   make_side(value_centroids, value_centroid_scale, true,
                             make_transform(value_transform, "value_transform", value_mean,
                                            "value_mean", heads, dims[1]),
                             heads, dims[1])};
  const CodesView view = codes_view(codes, block_table, sides[0], sides[1], batch, heads);
  int* length = row_numbers(lengths, "lengths", batch);
  int* quantized = row_numbers(quantized_lengths, "quantized_lengths", batch);
  if (batch * heads * tokens == 0) return;

  // Of each row: the tokens that leave the ring, which are its oldest.
  std::vector<int> leaving(static_cast<size_t>(batch), 0);
  int most = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t end = std::max<int64_t>(0, length[b] + tokens - num_sinks);
    const int64_t count = std::max<int64_t>(0, end - slots - quantized[b]);
    leaving[static_cast<size_t>(b)] = static_cast<int>(count);
    const int64_t room =
        std::max<int64_t>(0, std::min(count, view.num_tiles * kTile - quantized[b]));
    if (room > 0)
      check_pages(view, b, quantized[b] / kTile, (quantized[b] + room + kTile - 1) / kTile);
    most = std::max(most, static_cast<int>(count));
  }
  const Planes planes[2] = {planes_of(sides[0]), planes_of(sides[1])};
  const Kernels& kernels = select_kernels();
  const double cost =
      double(batch * heads * most) * (quantize_cost(sides[0]) + quantize_cost(sides[1]));
  const size_t bytes = type == ScalarType::Float ? 4 : 2;
  parallel(batch * heads * 2, cost, [&](int64_t item) {
    const int64_t side = item % 2, pair = item / 2, head = pair % heads, b = pair / heads;
    const int64_t first = quantized[b], room = view.num_tiles * kTile - first;
    const int64_t gone = leaving[static_cast<size_t>(b)],
                  stored = std::max<int64_t>(0, std::min(gone, room));
    if (stored > 0) {
      store_codes(kernels, view, sides[side], planes[side], b, head, first,
                  static_cast<int>(stored), ring[side].dtype,
                  [&](int t) { return ring[side].row(b, head, (first + t) % slots); });
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t index = length[b] + t;
      char* to = index < num_sinks ? sinks[side].row(b, head, index)
                                   : ring[side].row(b, head, (index - num_sinks) % slots);
      std::memcpy(to, states[side].row(b, head, t), static_cast<size_t>(dims[side]) * bytes);
    }
  });
  for (int64_t b = 0; b < batch; ++b) {
    length[b] += static_cast<int>(tokens);
    quantized[b] += leaving[static_cast<size_t>(b)];
  }
}

}  // namespace vecinfer
