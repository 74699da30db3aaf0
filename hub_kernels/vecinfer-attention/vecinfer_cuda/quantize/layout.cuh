// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What quantize is told, how its warps share the work, and its shared memory.
#pragma once

#include "../common/packing.cuh"
#include "../common/params.h"
#include "full_transform.cuh"

namespace vecinfer {

struct QuantizeParams {
  StatesView states[2];  // keys, values: [B, Hkv, T, D]
  Side sides[2];
  PlaneOrder orders[2];
  FastDivider by_subvectors[2];  // of one token
  CodesView codes;
  const int* starts;  // [B] first code slot
  const int* counts;  // [B] tokens
  const int* first;   // [B] first token
  int first_side;     // side of blockIdx.y < num_heads
  int num_heads;
  int num_tokens;  // T
  int head_dim;
  int full_columns;  // of a full matrix in shared memory at a time
  bool bf16;
};

// Warps of a block work on their own, each in its own tiles; they share what is made once for a
// head. A multiprocessor has one block, and the most warps leave 128 registers.
constexpr int kQuantizeWarps = 16;
constexpr int kQuantizeTiles = 32;                 // of 8 centroids, searched in one pass
constexpr int kQuantizePass = 8 * kQuantizeTiles;  // centroids
constexpr int kChunk = 16;        // tokens that quantize_kernel has in fixed point at a time
constexpr int kSearchGroups = 2;  // of 32 sub-vectors that are searched at a time
constexpr int kMostSets = 4;      // passes whose operands may stay

// Shared memory. Sizes in bytes are multiples of 16.
struct QuantizeLayout {
  int rows;    // sub-vectors of a chunk
  int padded;  // positions of a plane
  int sets;    // passes whose operands are made once; if not for all, then for one at a time
  int set_bytes;
  int raw_stride;  // from token to token of stored states; for a matrix, spread over the banks
  // of the block
  int operand_bytes, full_bytes, shift_bytes, places_bytes;
  // of each warp
  int fixed_bytes, raw_bytes, keys_bytes, low_bytes, high_bytes;

  __host__ __device__ QuantizeLayout(const Side& side, int head_dim, int full_columns) {
    const CodeFormat& format = side.format;
    const bool full = side.transform.kind == TransformKind::kFull;
    const int passes = format.num_codes << format.bits_per_code >> 8;
    static_assert(kQuantizePass == 1 << 8);
    rows = kChunk * (head_dim / format.subvector_dim);
    padded = kTile * padded_subvectors(format, head_dim, side.is_value);
    sets = passes <= kMostSets ? passes : 1;
    raw_stride = head_dim * 2 + (full ? 16 : 0);
    set_bytes = kQuantizeTiles * 32 * (format.subvector_dim == 8 ? 8 : 4);
    operand_bytes = sets * set_bytes;
    full_bytes = full ? FullTransform::part_bytes(head_dim, full_columns) : 0;
    shift_bytes = 2 * head_dim * 4;
    places_bytes = rows * (kTile / kChunk) * 2;
    // The search reads whole groups, past the rows of a head of 80 channels with 8-element
    // sub-vectors.
    const int step = 32 * kSearchGroups;
    fixed_bytes = (rows + step - 1) / step * step * format.subvector_dim * 2;
    raw_bytes = kChunk * raw_stride;
    keys_bytes = format.bits_per_code > 8 ? rows * 4 : 0;  // only between passes
    low_bytes = format.num_codes * padded;
    high_bytes = format.bits_per_code > 8 ? format.num_codes * padded : 0;
  }

  __host__ __device__ int block_bytes() const {
    return operand_bytes + full_bytes + shift_bytes + places_bytes;
  }
  __host__ __device__ int warp_bytes() const {
    return fixed_bytes + raw_bytes + keys_bytes + low_bytes + high_bytes;
  }
};

// Which tokens of a tile are to be written.
struct TileTokens {
  int first_slot, start, count, first, num_tokens;

  __device__ int token(int in_tile) const { return first_slot + in_tile - start + first; }
  __device__ bool valid(int in_tile) const {
    const int index = first_slot + in_tile - start;
    return index >= 0 && index < count && index + first >= 0 && index + first < num_tokens;
  }
  __device__ bool whole() const { return valid(0) && valid(kTile - 1); }
};

// A warp's own shared memory.
struct WarpMemory {
  __half* fixed;
  uint8_t* raw;
  int* keys;
  uint8_t *low, *high;

  __device__ __forceinline__ WarpMemory(const QuantizeLayout& layout, uint8_t* own)
      : fixed(reinterpret_cast<__half*>(own)),
        raw(own + layout.fixed_bytes),
        keys(reinterpret_cast<int*>(raw + layout.raw_bytes)),
        low(raw + layout.raw_bytes + layout.keys_bytes),
        high(low + layout.low_bytes) {}
};

}  // namespace vecinfer
