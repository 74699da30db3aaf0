// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Parameters that several operators share: plain data, no torch. B rows, Hkv key/value heads, D
// head size, C slots of the ring.
#pragma once

#include <cstdint>

namespace vecinfer {

// Tokens per tile of codes.
constexpr int kTile = 32;

// How one sub-vector is stored: num_codes additive codes of bits_per_code bits for subvector_dim
// elements.
struct CodeFormat {
  int subvector_dim;  // 2, 4 or 8
  int bits_per_code;  // 8, 10 or 12
  int num_codes;      // 1 or 2

  constexpr bool operator==(const CodeFormat& other) const {
    return subvector_dim == other.subvector_dim && bits_per_code == other.bits_per_code &&
           num_codes == other.num_codes;
  }
};

// bf16 or fp16 [B, Hkv, T, D], contiguous in D. Strides in elements.
struct StatesView {
  void* data;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t token_stride;
  bool aligned;  // every row starts on 16 bytes
};

enum class TransformKind : int {
  kNone,      // y = x - mean
  kDiagonal,  // y = ((x - mean) * weight) H;  inverse: y = (x H) * weight + mean
  kFull       // y = (x - mean) @ weight;      inverse: y = x @ weight + mean
};

// Transform of one side (keys or values).
struct Transform {
  TransformKind kind;
  const float* weight;  // [Hkv, D] or [Hkv, D, D]
  const float* mean;    // [Hkv, D] or null
  bool transposed;      // a full weight is read as its transpose
};

// Codebook and place of one side within a tile.
struct Side {
  CodeFormat format;
  Transform transform;
  const int8_t* centroids;      // [Hkv, num_codes, 2**bits_per_code, subvector_dim]
  const float* centroid_scale;  // [Hkv]
  bool is_value;
  int tile_offset;  // bytes from the start of a tile to this side's first plane
};

// The codes of one layer: uint8 [B, Hkv, num_tiles, bytes_per_tile].
struct CodesView {
  uint8_t* data;
  int64_t batch_stride;  // bytes
  int64_t head_stride;   // bytes
  int num_tiles;
  int bytes_per_tile;
};

}  // namespace vecinfer
