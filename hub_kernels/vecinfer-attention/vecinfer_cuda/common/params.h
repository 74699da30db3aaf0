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

// x / divisor for 0 <= x < 2^16 without a division. Made on the host where it can be: making it
// takes one.
struct FastDivider {
  uint32_t factor;

  FastDivider() = default;
  // 2^32 / 1 would not fit: 0 stands for it.
  __host__ __device__ explicit FastDivider(int divisor)
      : factor(divisor == 1 ? 0 : 0xffffffffu / divisor + 1) {}

  __device__ int divide(int x) const {
    return factor == 0 ? x : static_cast<int>(__umulhi(static_cast<uint32_t>(x), factor));
  }
};

// The codes of one layer: uint8 [pages, Hkv, tiles_per_page, bytes_per_tile]. Without a block table
// batch row b is page b; with one it has max_pages pages, whose numbers are its row of the table.
struct CodesView {
  uint8_t* data;
  int64_t page_stride;  // bytes
  int64_t head_stride;  // bytes
  int num_tiles;        // of a batch row
  int bytes_per_tile;
  const int* block_table;  // [B, max_pages] or null
  int max_pages;
  int tiles_per_page;
  FastDivider by_page;  // by tiles_per_page; with a block table num_tiles is at most 2^16
};

}  // namespace vecinfer
