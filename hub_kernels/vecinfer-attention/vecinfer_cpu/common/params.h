// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Plain views of the tensors that the operators work on. Nothing here, nor in kernels/, knows
// torch. Shapes: B rows, Hkv key/value heads, T tokens, D head size, S sub-vectors of a head.
#pragma once

#include <cstdint>

namespace vecinfer {

constexpr int kTile = 32;          // tokens of a tile
constexpr int kDecodeTokens = 16;  // tokens of a row that append and decode_attention take at once
constexpr int kMaxHeadDim = 512;

enum class Dtype { kFloat, kHalf, kBfloat16 };

// Keys, values, sinks or a ring [B, Hkv, T, D], contiguous in D. Strides count elements.
struct StatesView {
  void* data;
  int64_t batch_stride, head_stride, token_stride;
  Dtype dtype;

  char* row(int64_t batch, int64_t head, int64_t token) const {
    const int64_t at = batch * batch_stride + head * head_stride + token * token_stride;
    return static_cast<char*>(data) + at * (dtype == Dtype::kFloat ? 4 : 2);
  }
};

enum class TransformKind { kNone, kDiagonal, kFull };

// weight [Hkv, D] (with the block Hadamard matrix) or [Hkv, D, D]; mean [Hkv, D] or null.
struct Transform {
  TransformKind kind = TransformKind::kNone;
  const float* weight = nullptr;
  const float* mean = nullptr;
};

// num_codes additive codes of bits_per_code bits for subvector_dim elements.
struct CodeFormat {
  int subvector_dim, bits_per_code, num_codes;
  int size() const { return 1 << bits_per_code; }
};

// Keys or values of a codebook. centroids int8 [Hkv, num_codes, size, subvector_dim].
struct Side {
  CodeFormat format;
  Transform transform;
  const int8_t* centroids;
  const float* centroid_scale;
  int head_dim;
  bool is_value;
  int tile_offset;  // bytes of a tile in front of this side

  int num_subvectors() const { return head_dim / format.subvector_dim; }
  const int8_t* head_centroids(int64_t head, int level = 0) const {
    const int64_t level_size = int64_t(format.size()) * format.subvector_dim;
    return centroids + (head * format.num_codes + level) * level_size;
  }
};

// Tiles [B, Hkv, num_tiles, tile_bytes], or with a block table [B, max_pages] pages
// [num_pages, Hkv, tiles_per_page, tile_bytes].
struct CodesView {
  uint8_t* data;
  int64_t first_stride, head_stride;  // bytes
  int64_t tile_bytes, num_tiles;      // num_tiles: of a row
  const int* block_table;
  int64_t max_pages, num_pages, tiles_per_page;

  // The page that holds a tile of a row, or -1 if the table names none that exists.
  int64_t page(int64_t batch, int64_t index) const {
    const int64_t found = block_table[batch * max_pages + index / tiles_per_page];
    return found >= 0 && found < num_pages ? found : -1;
  }
  // Where a tile is read. An entry that names no page reads page 0: nothing of that row lies there.
  uint8_t* tile(int64_t batch, int64_t head, int64_t index) const {
    if (block_table == nullptr) {
      return data + batch * first_stride + head * head_stride + index * tile_bytes;
    }
    const int64_t found = page(batch, index);
    return data + (found < 0 ? 0 : found) * first_stride + head * head_stride +
           index % tiles_per_page * tile_bytes;
  }
};

}  // namespace vecinfer
