// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Where every code lies in a tile: the CUDA twin of vecinfer_hf/quantization/packing.py. A tile
// holds 32 tokens of one head: the key planes (one per additive code), then the value planes. A
// plane holds the low 8 bits of every code, then the high bits of the same positions. The order
// inside a plane follows the fragments of mma.m16n8k32 of the attention kernel.
#pragma once

#include <cstdint>

#include "params.h"

namespace vecinfer {

// Sub-vectors a plane has room for: the attention kernel deals keys to 4 and values to 8 lanes.
__host__ __device__ constexpr int padded_subvectors(const CodeFormat& format, int head_dim,
                                                    bool is_value) {
  const int multiple = is_value ? 8 : 4;
  const int subvectors = head_dim / format.subvector_dim;
  return (subvectors + multiple - 1) / multiple * multiple;
}

// Bytes of one plane (one additive code of one tile).
__host__ __device__ constexpr int plane_bytes(const CodeFormat& format, int head_dim,
                                              bool is_value) {
  return kTile * padded_subvectors(format, head_dim, is_value) * format.bits_per_code / 8;
}

// Bytes of all planes of one side.
__host__ __device__ constexpr int side_bytes(const CodeFormat& format, int head_dim,
                                             bool is_value) {
  return plane_bytes(format, head_dim, is_value) * format.num_codes;
}

// Position in its plane of each (token, sub-vector).
struct PlaneOrder {
  int per_lane;    // sub-vectors of one token in one lane
  int log2_chunk;  // consecutive bytes of one lane: 4, 8 or 16
  bool is_value;
  FastDivider by_lane;

  PlaneOrder() = default;
  // padded: sub-vectors a plane has room for.
  __host__ __device__ PlaneOrder(int padded, bool value)
      : per_lane(padded / (value ? 8 : 4)), log2_chunk(2), is_value(value), by_lane(per_lane) {
    const int length = per_lane * (value ? 8 : 4);
    if (length % 16 == 0) {
      log2_chunk = 4;
    } else if (length % 8 == 0) {
      log2_chunk = 3;
    }
  }

  // token in 0..31 of the tile.
  __device__ int position(int token, int subvector) const {
    const int half = token >> 4;
    const int row = token & 15;
    const int part = by_lane.divide(subvector);
    const int rest = subvector - part * per_lane;
    int lane, offset;
    if (is_value) {
      lane = part * 4 + ((row & 7) >> 1);
      offset = (half * 4 + (((row & 1) << 1) | (row >> 3))) * per_lane + rest;
    } else {
      lane = (row & 7) * 4 + part;
      offset = (half * 2 + (row >> 3)) * per_lane + rest;
    }
    const int chunk = 1 << log2_chunk;
    return ((((offset >> log2_chunk) * kTile) + lane) << log2_chunk) + (offset & (chunk - 1));
  }
};

// High bits of a code live behind the low bytes of the plane, little-endian in position order.
__host__ __device__ inline int high_byte(int position, int high_bits) {
  return position * high_bits / 8;
}
__host__ __device__ inline int high_shift(int position, int high_bits) {
  return position % (8 / high_bits) * high_bits;
}

// A tile of codes of one head of batch row b, in place.
__device__ __forceinline__ uint8_t* code_tile(const CodesView& codes, int b, int head, int tile) {
  int64_t page = b;
  if (codes.block_table != nullptr) {
    const int index = codes.by_page.divide(tile);
    page = codes.block_table[static_cast<int64_t>(b) * codes.max_pages + index];
    tile -= index * codes.tiles_per_page;
  }
  return codes.data + page * codes.page_stride + head * codes.head_stride +
         static_cast<int64_t>(tile) * codes.bytes_per_tile;
}

}  // namespace vecinfer
