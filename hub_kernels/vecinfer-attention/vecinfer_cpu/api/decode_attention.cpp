// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// decode_attention: checks, outputs, the division of work.
#include <algorithm>

#include "../../torch-ext/torch_binding.h"
#include "../common/scratch.h"
#include "../isa/select.h"
#include "checks.h"

namespace vecinfer {
namespace {

constexpr int kSplitTokens = 2048;  // codes of a split, at least; a split starts at a multiple

int64_t choose_splits(int64_t num_splits, int64_t pairs, int64_t tokens) {
  if (num_splits > 0) return num_splits;
  const int64_t threads = torch::stable::get_num_threads();
  if (threads <= 1 || pairs >= 8 * threads) return 1;
  const int64_t pieces = (tokens + kSplitTokens - 1) / kSplitTokens;
  return std::max<int64_t>(1, std::min(pieces, (8 * threads + pairs - 1) / pairs));
}

Part make_part(Scratch& scratch, const DecodeParams& p) {
  const int64_t rows = p.rows();
  return {scratch.floats(rows), scratch.floats(rows), scratch.floats(rows * p.value_stride())};
}

}  // namespace

std::tuple<Tensor, Tensor> decode_attention(
    Tensor query, Tensor codes, OptionalTensor block_table, Tensor sink_keys, Tensor sink_values,
    Tensor ring_keys, Tensor ring_values, Tensor lengths, Tensor quantized_lengths,
    OptionalTensor key_mean, Tensor query_transform, Tensor key_centroids,
    Tensor key_centroid_scale, OptionalTensor value_mean, OptionalTensor output_transform,
    Tensor value_centroids, Tensor value_centroid_scale, double softmax_scale, double softcap,
    OptionalTensor sink_logits, int64_t num_splits) {
  check_shape(query, "query", {-1, -1, -1, -1});
  states_dtype(query, "query");
  const int64_t batch = query.size(0), query_heads = query.size(1), queries = query.size(2);
  const int64_t key_dim = query.size(3);
  check_shape(ring_keys, "ring_keys", {batch, -1, -1, key_dim});
  const int64_t heads = ring_keys.size(1), slots = ring_keys.size(2);
  check_shape(sink_keys, "sink_keys", {batch, heads, -1, key_dim});
  check_shape(sink_values, "sink_values", {batch, heads, -1, -1});
  const int64_t num_sinks = sink_keys.size(2), value_dim = sink_values.size(3);
  check_head_dim(key_dim, "query");
  check_head_dim(value_dim, "sink_values");
  VECINFER_CHECK(heads > 0 && query_heads % heads == 0, "query has ", query_heads,
                 " heads, which is no multiple of the ", heads, " key/value heads.");
  VECINFER_CHECK(queries <= kDecodeTokens && queries <= std::max<int64_t>(slots, 1), "query has ",
                 queries, " tokens per row, but at most ", kDecodeTokens,
                 " are supported and no more than the ring's ", slots, " slots.");
  VECINFER_CHECK(softmax_scale > 0.0, "softmax_scale is ", softmax_scale,
                 ", but must be positive.");
  VECINFER_CHECK(softcap >= 0.0, "softcap is ", softcap, ", but must not be negative.");
  VECINFER_CHECK(num_splits >= 0 && num_splits <= 65535, "num_splits is ", num_splits,
                 ", but 0 (automatic) to 65535 are possible.");
  const ScalarType type = query.scalar_type();
  DecodeParams p = {};
  p.query = states_view(query, "query", type, batch, query_heads, queries, key_dim);
  p.sinks[0] = states_view(sink_keys, "sink_keys", type, batch, heads, num_sinks, key_dim);
  p.sinks[1] = states_view(sink_values, "sink_values", type, batch, heads, num_sinks, value_dim);
  p.ring[0] = states_view(ring_keys, "ring_keys", type, batch, heads, slots, key_dim);
  p.ring[1] = states_view(ring_values, "ring_values", type, batch, heads, slots, value_dim);
  p.num_sinks = static_cast<int>(num_sinks);
  p.num_slots = static_cast<int>(slots);
  p.key = make_side(
      key_centroids, key_centroid_scale, false,
      make_transform(query_transform, "query_transform", key_mean, "key_mean", heads, key_dim),
      heads, key_dim);
  p.value = make_side(value_centroids, value_centroid_scale, true,
                      make_transform(output_transform, "output_transform", value_mean, "value_mean",
                                     heads, value_dim),
                      heads, value_dim);
  p.codes = codes_view(codes, block_table, p.key, p.value, batch, heads);
  p.key_planes = planes_of(p.key);
  p.value_planes = planes_of(p.value);
  p.lengths = row_numbers(lengths, "lengths", batch);
  p.quantized = row_numbers(quantized_lengths, "quantized_lengths", batch);
  p.heads = static_cast<int>(heads);
  p.group = static_cast<int>(query_heads / heads);
  p.queries = static_cast<int>(queries);
  p.softmax_scale = static_cast<float>(softmax_scale);
  p.softcap = static_cast<float>(softcap);
  if (sink_logits) {
    check_plain(*sink_logits, "sink_logits", ScalarType::Float, {query_heads});
    p.sink_logits = static_cast<const float*>(sink_logits->data_ptr());
  }
  Tensor out = torch::stable::new_empty(query, {batch, query_heads, queries, value_dim}, type);
  Tensor lse = torch::stable::new_empty(query, {batch, query_heads, queries}, ScalarType::Float);
  if (batch * query_heads * queries == 0) return {out, lse};
  p.out = out.data_ptr();
  p.lse = static_cast<float*>(lse.data_ptr());

  int64_t longest = 0, all = 0;
  for (int64_t b = 0; b < batch; ++b) {
    longest = std::max<int64_t>(longest, p.coded(b));
    all += p.coded(b) + 200;
  }
  const Kernels& kernels = select_kernels();
  const int64_t pairs = batch * heads, splits = choose_splits(num_splits, pairs, longest);
  const double cost = double(all * heads * p.rows()) * double(key_dim + value_dim) * 0.025;
  // The codes of a row between two of these are one split's.
  const auto bound = [&](int64_t b, int64_t split) {
    const int64_t unit = num_splits > 0 ? kTile : kSplitTokens;
    const int64_t pieces = (p.coded(b) + unit - 1) / unit;
    return static_cast<int>(std::min<int64_t>(p.coded(b), pieces * split / splits * unit));
  };
  Scratch scratch;
  if (splits == 1) {
    parallel(pairs, cost, [&](int64_t pair) {
      Scratch own;
      const int64_t b = pair / heads, head = pair % heads;
      Part exact = make_part(own, p), part = make_part(own, p);
      kernels.attend_exact(p, b, head, exact);
      if (p.coded(b) > 0) kernels.attend_codes(p, b, head, 0, p.coded(b), part);
      kernels.finish(p, b, head, &part, p.coded(b) > 0 ? 1 : 0, exact);
    });
    return {out, lse};
  }
  // Every split leaves a part; an empty one is left out of the merge.
  std::vector<Part> parts(static_cast<size_t>(pairs * splits));
  for (Part& part : parts) part = make_part(scratch, p);
  parallel(pairs * splits, cost, [&](int64_t item) {
    const int64_t pair = item / splits, split = item % splits, b = pair / heads;
    const int first = bound(b, split), last = bound(b, split + 1);
    if (first < last)
      kernels.attend_codes(p, b, pair % heads, first, last, parts[static_cast<size_t>(item)]);
  });
  parallel(pairs, cost, [&](int64_t pair) {
    Scratch own;
    const int64_t b = pair / heads, head = pair % heads;
    std::vector<Part> full;
    for (int64_t split = 0; split < splits; ++split) {
      if (bound(b, split) < bound(b, split + 1))
        full.push_back(parts[static_cast<size_t>(pair * splits + split)]);
    }
    Part exact = make_part(own, p);
    kernels.attend_exact(p, b, head, exact);
    kernels.finish(p, b, head, full.data(), static_cast<int>(full.size()), exact);
  });
  return {out, lse};
}

}  // namespace vecinfer
