// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The operators' entry points, implemented in vecinfer_cuda/api/. Shapes and meaning: the schemas'
// Python faces in torch-ext/vecinfer_attention/__init__.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace vecinfer {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

void quantize(Tensor key_states, Tensor value_states, Tensor codes, OptionalTensor block_table,
              Tensor starts, Tensor counts, Tensor first, OptionalTensor key_mean,
              Tensor key_transform, Tensor key_centroids, Tensor key_centroid_scale,
              OptionalTensor value_mean, OptionalTensor value_transform, Tensor value_centroids,
              Tensor value_centroid_scale);

void append(Tensor key_states, Tensor value_states, Tensor codes, OptionalTensor block_table,
            Tensor sink_keys, Tensor sink_values, Tensor ring_keys, Tensor ring_values,
            Tensor lengths, Tensor quantized_lengths, OptionalTensor key_mean, Tensor key_transform,
            Tensor key_centroids, Tensor key_centroid_scale, OptionalTensor value_mean,
            OptionalTensor value_transform, Tensor value_centroids, Tensor value_centroid_scale);

std::tuple<Tensor, Tensor> decode_attention(
    Tensor query, Tensor codes, OptionalTensor block_table, Tensor sink_keys, Tensor sink_values,
    Tensor ring_keys, Tensor ring_values, Tensor lengths, Tensor quantized_lengths,
    OptionalTensor key_mean, Tensor query_transform, Tensor key_centroids,
    Tensor key_centroid_scale, OptionalTensor value_mean, OptionalTensor output_transform,
    Tensor value_centroids, Tensor value_centroid_scale, double softmax_scale, double softcap,
    OptionalTensor sink_logits, int64_t num_splits);

std::tuple<Tensor, Tensor> dequantize(Tensor codes, OptionalTensor block_table,
                                      OptionalTensor key_mean, Tensor query_transform,
                                      Tensor key_centroids, Tensor key_centroid_scale,
                                      OptionalTensor value_mean, OptionalTensor output_transform,
                                      Tensor value_centroids, Tensor value_centroid_scale,
                                      int64_t value_head_dim, int64_t start, int64_t length,
                                      torch::headeronly::ScalarType dtype);

}  // namespace vecinfer
