// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// A codebook's tensors to the two sides (keys, values) of a kernel's parameters, checked.
#pragma once

#include <algorithm>

#include "../common/packing.cuh"
#include "checks.h"

namespace vecinfer {

// Tiles of a batch row that has a block table: what FastDivider divides.
constexpr int64_t kMaxPagedTiles = 65536;

// Kernels read these tensors in 16-byte words.
inline void check_alignment(const Tensor& tensor, const char* name) {
  VECINFER_CHECK(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0, name,
                 " must start on 16 bytes.");
}

inline Transform make_transform(const OptionalTensor& weight, const char* weight_name,
                                const OptionalTensor& mean, const char* mean_name, bool transposed,
                                int64_t heads, int64_t head_dim, const Tensor& other) {
  Transform transform{TransformKind::kNone, nullptr, nullptr, transposed};
  if (mean) {
    check_plain(*mean, mean_name, ScalarType::Float, other, {heads, head_dim});
    check_alignment(*mean, mean_name);
    transform.mean = static_cast<const float*>(mean->data_ptr());
  }
  if (!weight) return transform;
  const bool full = weight->dim() == 3;
  if (full) {
    check_plain(*weight, weight_name, ScalarType::Float, other, {heads, head_dim, head_dim});
  } else {
    check_plain(*weight, weight_name, ScalarType::Float, other, {heads, head_dim});
  }
  check_alignment(*weight, weight_name);
  transform.kind = full ? TransformKind::kFull : TransformKind::kDiagonal;
  transform.weight = static_cast<const float*>(weight->data_ptr());
  return transform;
}

inline Side make_side(const Tensor& centroids, const Tensor& scale, bool is_value,
                      const Transform& transform, int64_t heads, int64_t head_dim,
                      const Tensor& other) {
  const char* name = is_value ? "value_centroids" : "key_centroids";
  Side side;
  side.format = code_format(centroids, name, heads, head_dim, other);
  check_alignment(centroids, name);
  check_plain(scale, is_value ? "value_centroid_scale" : "key_centroid_scale", ScalarType::Float,
              other, {heads});
  side.transform = transform;
  side.centroids = static_cast<const int8_t*>(centroids.data_ptr());
  side.centroid_scale = static_cast<const float*>(scale.data_ptr());
  side.is_value = is_value;
  side.tile_offset = 0;
  return side;
}

// Also settles where the values start within a tile.
inline CodesView codes_view(const Tensor& codes, const OptionalTensor& block_table,
                            Side (&sides)[2], int64_t batch, int64_t heads, int64_t head_dim,
                            const Tensor& other) {
  const int key_bytes = side_bytes(sides[0].format, static_cast<int>(head_dim), false);
  const int bytes = key_bytes + side_bytes(sides[1].format, static_cast<int>(head_dim), true);
  check_dtype(codes, "codes", ScalarType::Byte);
  check_same_device(codes, "codes", other);
  check_shape(codes, "codes", {block_table ? -1 : batch, heads, -1, bytes});
  VECINFER_CHECK(codes.numel() == 0 || (codes.stride(3) == 1 && codes.stride(2) == bytes &&
                                        codes.stride(1) % 16 == 0 && codes.stride(0) % 16 == 0),
                 "codes must be contiguous in their last two dimensions.");
  check_alignment(codes, "codes");
  sides[1].tile_offset = key_bytes;
  CodesView view = {};
  view.data = static_cast<uint8_t*>(codes.data_ptr());
  view.page_stride = codes.stride(0);
  view.head_stride = codes.stride(1);
  view.num_tiles = static_cast<int>(codes.size(2));
  view.bytes_per_tile = bytes;
  if (!block_table) return view;
  check_plain(*block_table, "block_table", ScalarType::Int, other, {batch, -1});
  const int64_t pages = block_table->size(1), tiles = pages * codes.size(2);
  VECINFER_CHECK(tiles <= kMaxPagedTiles, "block_table has ", pages, " pages of ", codes.size(2),
                 " tiles for each row, but at most ", kMaxPagedTiles, " tiles are supported.");
  view.block_table = static_cast<const int*>(block_table->data_ptr());
  view.max_pages = static_cast<int>(pages);
  view.tiles_per_page = static_cast<int>(codes.size(2));
  view.by_page = FastDivider(std::max(view.tiles_per_page, 1));
  view.num_tiles = static_cast<int>(tiles);
  return view;
}

inline PlaneOrder plane_order(const Side& side, int64_t head_dim) {
  return PlaneOrder(padded_subvectors(side.format, static_cast<int>(head_dim), side.is_value),
                    side.is_value);
}

inline int* row_numbers(const Tensor& tensor, const char* name, int64_t batch,
                        const Tensor& other) {
  check_plain(tensor, name, ScalarType::Int, other, {batch});
  return static_cast<int*>(tensor.data_ptr());
}

}  // namespace vecinfer
