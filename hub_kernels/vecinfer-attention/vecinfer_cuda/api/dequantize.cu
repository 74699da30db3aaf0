// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Host side of dequantize: checks, outputs, parameters, launch.
#include "../../torch-ext/torch_binding.h"
#include "../dequantize/kernel.cuh"
#include "sides.h"

namespace vecinfer {

std::tuple<Tensor, Tensor> dequantize(Tensor codes, OptionalTensor block_table,
                                      OptionalTensor key_mean, Tensor query_transform,
                                      Tensor key_centroids, Tensor key_centroid_scale,
                                      OptionalTensor value_mean, OptionalTensor output_transform,
                                      Tensor value_centroids, Tensor value_centroid_scale,
                                      int64_t value_head_dim, int64_t start, int64_t length,
                                      ScalarType dtype) {
  check_device(codes);
  check_shape(codes, "codes", {-1, -1, -1, -1});
  if (block_table) check_shape(*block_table, "block_table", {-1, -1});
  const int64_t batch = block_table ? block_table->size(0) : codes.size(0);
  const int64_t heads = codes.size(1);
  const int64_t slots = codes.size(2) * kTile * (block_table ? block_table->size(1) : 1);
  VECINFER_CHECK(query_transform.dim() == 2 || query_transform.dim() == 3, "query_transform has ",
                 query_transform.dim(), " dimensions, but 2 (diagonal) or 3 (full) are needed.");
  const int64_t head_dim = query_transform.size(query_transform.dim() - 1);
  check_head_dim(head_dim);
  check_value_head_dim(value_head_dim, head_dim);
  VECINFER_CHECK(start >= 0 && length >= 0 && start + length <= slots, "code slots ", start, " to ",
                 start + length, " are outside the buffer of ", slots, ".");
  VECINFER_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
      "dequantize gives float32, float16 or bfloat16, not ", dtype_name(dtype), ".");
  DequantizeParams params;
  // The inverse of the key transform is the transposed query transform.
  params.sides[0] = make_side(key_centroids, key_centroid_scale, false,
                              make_transform(query_transform, "query_transform", key_mean,
                                             "key_mean", true, heads, head_dim, codes),
                              heads, head_dim, codes);
  params.sides[1] = make_side(value_centroids, value_centroid_scale, true,
                              make_transform(output_transform, "output_transform", value_mean,
                                             "value_mean", false, heads, head_dim, codes),
                              heads, head_dim, codes);
  params.codes = codes_view(codes, block_table, params.sides, batch, heads, head_dim, codes);
  for (int i = 0; i < 2; ++i) {
    params.orders[i] = plane_order(params.sides[i], head_dim);
    params.by_subvectors[i] =
        FastDivider(static_cast<int>(head_dim) / params.sides[i].format.subvector_dim);
  }
  params.type = dtype == ScalarType::Float  ? OutputType::kFloat
                : dtype == ScalarType::Half ? OutputType::kHalf
                                            : OutputType::kBfloat16;
  params.start = static_cast<int>(start);
  params.length = static_cast<int>(length);
  params.num_heads = static_cast<int>(heads);
  params.head_dim = static_cast<int>(head_dim);

  torch::stable::accelerator::DeviceGuard guard(codes.get_device_index());
  const int64_t sizes[4] = {batch, heads, length, head_dim};
  Tensor keys = torch::stable::new_empty(codes, {sizes, 4}, dtype);
  Tensor values = torch::stable::new_empty(codes, {sizes, 4}, dtype);
  if (batch * heads * length == 0) return {keys, values};
  VECINFER_CHECK(batch <= 65535 && heads <= 32767,
                 "dequantize takes at most 65535 rows and 32767 heads.");
  params.outputs[0] = keys.data_ptr();
  params.outputs[1] = values.data_ptr();
  const int64_t tiles = (start + length - 1) / kTile - start / kTile + 1;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(2 * heads),
                  static_cast<unsigned>(batch));
  const int shared = kTile * params.head_dim * static_cast<int>(sizeof(float));
  dequantize_kernel<<<grid, kDequantizeThreads, shared, current_stream(codes)>>>(params);
  VECINFER_CUDA_CHECK(cudaGetLastError());
  return {keys, values};
}

}  // namespace vecinfer
