// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// dequantize: checks, outputs, the division of work.
#include <algorithm>

#include "../../torch-ext/torch_binding.h"
#include "../common/scratch.h"
#include "../isa/select.h"
#include "checks.h"

namespace vecinfer {

std::tuple<Tensor, Tensor> dequantize(Tensor codes, OptionalTensor block_table,
                                      OptionalTensor key_mean, Tensor query_transform,
                                      Tensor key_centroids, Tensor key_centroid_scale,
                                      OptionalTensor value_mean, OptionalTensor output_transform,
                                      Tensor value_centroids, Tensor value_centroid_scale,
                                      int64_t value_head_dim, int64_t start, int64_t length,
                                      ScalarType dtype) {
  check_shape(codes, "codes", {-1, -1, -1, -1});
  const int64_t batch = block_table ? block_table->size(0) : codes.size(0), heads = codes.size(1);
  VECINFER_CHECK(query_transform.dim() == 2 || query_transform.dim() == 3, "query_transform has ",
                 query_transform.dim(), " dimensions, but 2 (diagonal) or 3 (full) are needed.");
  const int64_t key_dim = query_transform.size(query_transform.dim() - 1);
  check_head_dim(key_dim, "query_transform");
  check_head_dim(value_head_dim, "value_head_dim");
  VECINFER_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
      "dequantize gives float32, float16 or bfloat16, not ", dtype_name(dtype), ".");
  Side sides[2] = {make_side(key_centroids, key_centroid_scale, false,
                             make_transform(query_transform, "query_transform", key_mean,
                                            "key_mean", heads, key_dim),
                             heads, key_dim),
                   make_side(value_centroids, value_centroid_scale, true,
                             make_transform(output_transform, "output_transform", value_mean,
                                            "value_mean", heads, value_head_dim),
                             heads, value_head_dim)};
  const CodesView view = codes_view(codes, block_table, sides[0], sides[1], batch, heads);
  VECINFER_CHECK(start >= 0 && length >= 0 && start + length <= view.num_tiles * kTile,
                 "code slots ", start, " to ", start + length, " are outside the buffer of ",
                 view.num_tiles * kTile, ".");
  Tensor results[2] = {
      torch::stable::new_empty(codes, {batch, heads, length, key_dim}, dtype),
      torch::stable::new_empty(codes, {batch, heads, length, value_head_dim}, dtype)};
  if (batch * heads * length == 0) return {results[0], results[1]};
  const Dtype type = states_dtype(results[0], "dtype");
  char* outputs[2] = {static_cast<char*>(results[0].data_ptr()),
                      static_cast<char*>(results[1].data_ptr())};
  const Planes planes[2] = {planes_of(sides[0]), planes_of(sides[1])};
  const Kernels& kernels = select_kernels();
  // A thread transposes a full matrix once for all the tokens of its chunk.
  constexpr int64_t kChunk = 1024;
  const int64_t chunks = (length + kChunk - 1) / kChunk;
  const bool full = sides[0].transform.kind == TransformKind::kFull;
  const double cost = double(batch * heads * length * key_dim) * (full ? 2.0 : 0.5);
  parallel(batch * heads * 2 * chunks, cost, [&](int64_t item) {
    const int64_t chunk = item % chunks, i = item / chunks % 2, pair = item / chunks / 2;
    const int64_t head = pair % heads;
    const Side& side = sides[i];
    const int64_t dim = side.head_dim;
    Scratch scratch;
    const float* matrix = nullptr;
    if (side.transform.kind == TransformKind::kFull) {
      matrix = side.transform.weight + head * dim * dim;
      if (i == 0) {  // the inverse of the key transform is the transposed query transform
        float* turned = scratch.floats(dim * dim);
        for (int64_t r = 0; r < dim; ++r) {
          for (int64_t c = 0; c < dim; ++c) turned[c * dim + r] = matrix[r * dim + c];
        }
        matrix = turned;
      }
    }
    const int64_t first = chunk * kChunk, count = std::min(kChunk, length - first);
    char* out = outputs[i] + (pair * length + first) * dim * (type == Dtype::kFloat ? 4 : 2);
    kernels.dequantize(view, side, planes[i], pair / heads, head, matrix, start + first, count, out,
                       type);
  });
  return {results[0], results[1]};
}

}  // namespace vecinfer
