// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Host side of append: checks, parameters, launches. Nothing here reads a length: they live on the
// device.
#include <algorithm>

#include "../../torch-ext/torch_binding.h"
#include "../append/kernel.cuh"
#include "sides.h"

namespace vecinfer {

void append(Tensor key_states, Tensor value_states, Tensor codes, OptionalTensor block_table,
            Tensor sink_keys, Tensor sink_values, Tensor ring_keys, Tensor ring_values,
            Tensor lengths, Tensor quantized_lengths, OptionalTensor key_mean, Tensor key_transform,
            Tensor key_centroids, Tensor key_centroid_scale, OptionalTensor value_mean,
            OptionalTensor value_transform, Tensor value_centroids, Tensor value_centroid_scale) {
  check_device(key_states);
  check_shape(key_states, "key_states", {-1, -1, -1, -1});
  const int64_t batch = key_states.size(0), heads = key_states.size(1), tokens = key_states.size(2);
  const int64_t head_dim = key_states.size(3);
  check_head_dim(head_dim);
  check_shape(value_states, "value_states", {batch, heads, tokens, -1});
  check_value_head_dim(value_states.size(3), head_dim);
  check_shape(sink_keys, "sink_keys", {batch, heads, -1, head_dim});
  check_shape(ring_keys, "ring_keys", {batch, heads, -1, head_dim});
  const int64_t sinks = sink_keys.size(2), slots = ring_keys.size(2);
  VECINFER_CHECK(tokens <= kAppendTokens && tokens <= slots, "append takes at most ", kAppendTokens,
                 " tokens at a time and no more than the ring's ", slots, " slots, not ", tokens,
                 "; use quantize for a prefill.");
  AppendParams params;
  params.bf16 = is_bf16(key_states, "key_states");
  const Tensor* states[2] = {&key_states, &value_states};
  const Tensor* sink[2] = {&sink_keys, &sink_values};
  const Tensor* ring[2] = {&ring_keys, &ring_values};
  const char* names[3][2] = {
      {"key_states", "value_states"}, {"sink_keys", "sink_values"}, {"ring_keys", "ring_values"}};
  for (int i = 0; i < 2; ++i) {
    check_dtype(*states[i], names[0][i], key_states.scalar_type());
    check_dtype(*sink[i], names[1][i], key_states.scalar_type());
    check_dtype(*ring[i], names[2][i], key_states.scalar_type());
    params.states[i] =
        states_view(*states[i], names[0][i], key_states, batch, heads, tokens, head_dim);
    params.sinks[i] = states_view(*sink[i], names[1][i], key_states, batch, heads, sinks, head_dim);
    params.ring[i] = states_view(*ring[i], names[2][i], key_states, batch, heads, slots, head_dim);
  }
  params.sides[0] = make_side(key_centroids, key_centroid_scale, false,
                              make_transform(key_transform, "key_transform", key_mean, "key_mean",
                                             false, heads, head_dim, key_states),
                              heads, head_dim, key_states);
  params.sides[1] = make_side(value_centroids, value_centroid_scale, true,
                              make_transform(value_transform, "value_transform", value_mean,
                                             "value_mean", false, heads, head_dim, key_states),
                              heads, head_dim, key_states);
  params.codes = codes_view(codes, block_table, params.sides, batch, heads, head_dim, key_states);
  for (int i = 0; i < 2; ++i) {
    params.orders[i] = plane_order(params.sides[i], head_dim);
    params.by_subvectors[i] =
        FastDivider(static_cast<int>(head_dim) / params.sides[i].format.subvector_dim);
  }
  params.by_head_dim = FastDivider(static_cast<int>(head_dim));
  params.lengths = row_numbers(lengths, "lengths", batch, key_states);
  params.quantized_lengths = row_numbers(quantized_lengths, "quantized_lengths", batch, key_states);
  params.batch_size = static_cast<int>(batch);
  params.num_tokens = static_cast<int>(tokens);
  params.num_sinks = static_cast<int>(sinks);
  params.ring_slots = static_cast<int>(slots);
  params.head_dim = static_cast<int>(head_dim);
  if (batch * heads * tokens == 0) return;
  VECINFER_CHECK(batch <= 65535, "append takes at most 65535 rows, not ", batch, ".");

  const int device = key_states.get_device_index();
  torch::stable::accelerator::DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(key_states);
  const int shared = std::max(AppendLayout(params.sides[0], params.head_dim).total(),
                              AppendLayout(params.sides[1], params.head_dim).total());
  const dim3 grid(static_cast<unsigned>(heads), static_cast<unsigned>(batch), 2);
  append_kernel<<<grid, kAppendThreads, shared, stream>>>(params);
  VECINFER_CUDA_CHECK(cudaGetLastError());

  // The second kernel is set up while the first one runs, where the device can do that.
  int major = 0;
  VECINFER_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  constexpr int kThreads = 128;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((batch + kThreads - 1) / kThreads));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = major >= 9 ? 1 : 0;
  VECINFER_CUDA_CHECK(cudaLaunchKernelEx(&config, advance_lengths_kernel, params));
}

}  // namespace vecinfer
