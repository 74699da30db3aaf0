// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Schemas and registration, nothing else. The namespace carries the build's id, so that two
// versions live side by side.
#include "torch_binding.h"

#include <torch/csrc/stable/library.h>

#include "registration.h"

STABLE_TORCH_LIBRARY_EXPAND(TORCH_EXTENSION_NAME, ops) {
  ops.def(
      "quantize(Tensor key_states, Tensor value_states, Tensor(a!) codes, Tensor? block_table, "
      "Tensor starts, Tensor counts, Tensor first, Tensor? key_mean, Tensor key_transform, "
      "Tensor key_centroids, Tensor key_centroid_scale, Tensor? value_mean, "
      "Tensor? value_transform, Tensor value_centroids, Tensor value_centroid_scale) -> ()");
  ops.def(
      "append(Tensor key_states, Tensor value_states, Tensor(a!) codes, Tensor? block_table, "
      "Tensor(b!) sink_keys, Tensor(c!) sink_values, Tensor(d!) ring_keys, "
      "Tensor(e!) ring_values, Tensor(f!) lengths, Tensor(g!) quantized_lengths, "
      "Tensor? key_mean, Tensor key_transform, Tensor key_centroids, Tensor key_centroid_scale, "
      "Tensor? value_mean, Tensor? value_transform, Tensor value_centroids, "
      "Tensor value_centroid_scale) -> ()");
  ops.def(
      "decode_attention(Tensor query, Tensor codes, Tensor? block_table, Tensor sink_keys, "
      "Tensor sink_values, Tensor ring_keys, Tensor ring_values, Tensor lengths, "
      "Tensor quantized_lengths, Tensor? key_mean, Tensor query_transform, "
      "Tensor key_centroids, Tensor key_centroid_scale, Tensor? value_mean, "
      "Tensor? output_transform, Tensor value_centroids, Tensor value_centroid_scale, "
      "float softmax_scale, float softcap, Tensor? sink_logits, int num_splits) -> (Tensor, "
      "Tensor)");
  ops.def(
      "dequantize(Tensor codes, Tensor? block_table, Tensor? key_mean, Tensor query_transform, "
      "Tensor key_centroids, Tensor key_centroid_scale, Tensor? value_mean, "
      "Tensor? output_transform, Tensor value_centroids, Tensor value_centroid_scale, "
      "int value_head_dim, int start, int length, ScalarType dtype) -> (Tensor, Tensor)");
}

#if defined(CPU_KERNEL)
STABLE_TORCH_LIBRARY_IMPL_EXPAND(TORCH_EXTENSION_NAME, CPU, ops) {
#else
STABLE_TORCH_LIBRARY_IMPL_EXPAND(TORCH_EXTENSION_NAME, CUDA, ops) {
#endif
  ops.impl("quantize", TORCH_BOX(&vecinfer::quantize));
  ops.impl("append", TORCH_BOX(&vecinfer::append));
  ops.impl("decode_attention", TORCH_BOX(&vecinfer::decode_attention));
  ops.impl("dequantize", TORCH_BOX(&vecinfer::dequantize));
}

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
