// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Host side of decode_attention.
#include "../../torch-ext/torch_binding.h"
#include "checks.h"

namespace vecinfer {

std::tuple<Tensor, Tensor> decode_attention(
    Tensor query, Tensor codes, Tensor sink_keys, Tensor sink_values, Tensor window_keys,
    Tensor window_values, Tensor lengths, Tensor quantized_lengths, OptionalTensor key_mean,
    Tensor query_transform, Tensor key_centroids, Tensor key_centroid_scale,
    OptionalTensor value_mean, OptionalTensor output_transform, Tensor value_centroids,
    Tensor value_centroid_scale, int64_t residual_length, double softmax_scale, double softcap,
    OptionalTensor attention_sinks, int64_t num_splits) {
  check_device(query);
  VECINFER_CHECK(false, "decode_attention is not built yet.");
  return {query, query};
}

}  // namespace vecinfer
