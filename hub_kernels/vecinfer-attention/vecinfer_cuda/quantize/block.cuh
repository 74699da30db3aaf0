// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What quantize's kernels share: a block's place and tiles, what it makes once for its head, and
// how a tile's codes get to memory.
#pragma once

#include "search.cuh"

namespace vecinfer {

// A block's side and head, and its share of the tiles of one batch row.
struct QuantizeBlock {
  int side_index, head, batch;
  int start, count, first_token;  // of the batch row
  int first_tile, end_tile;       // none if they are equal

  __device__ __forceinline__ explicit QuantizeBlock(const QuantizeParams& p)
      : side_index(p.first_side + blockIdx.y / p.num_heads),
        head(blockIdx.y % p.num_heads),
        batch(blockIdx.z),
        start(p.starts[batch]),
        count(p.counts[batch]),
        first_token(p.first[batch]),
        first_tile(0),
        end_tile(0) {
    if (count <= 0 || start < 0) return;
    // A row's blocks share its tiles evenly, whatever their number.
    const int row_first = start / kTile;
    const int64_t row_tiles = min((start + count - 1) / kTile + 1, p.codes.num_tiles) - row_first;
    first_tile = row_first + static_cast<int>(row_tiles * blockIdx.x / gridDim.x);
    end_tile = row_first + static_cast<int>(row_tiles * (blockIdx.x + 1) / gridDim.x);
  }

  __device__ __forceinline__ TileTokens tile(const QuantizeParams& p, int index) const {
    return TileTokens{index * kTile, start, count, first_token, p.num_tokens};
  }
  __device__ __forceinline__ const uint16_t* states(const QuantizeParams& p) const {
    const StatesView& view = p.states[side_index];
    return static_cast<const uint16_t*>(view.data) + batch * view.batch_stride +
           head * view.head_stride;
  }
  __device__ __forceinline__ const int8_t* centroids(const Side& side) const {
    const int64_t size = side.format.num_codes << side.format.bits_per_code;
    return side.centroids + head * size * side.format.subvector_dim;
  }
  // The side's part of a tile of codes.
  __device__ __forceinline__ uint8_t* codes(const QuantizeParams& p, int tile) const {
    return code_tile(p.codes, batch, head, tile) + p.sides[side_index].tile_offset;
  }
};

// The sub-vectors of a tile, counted token by token.
struct TileRows {
  PlaneOrder order;
  FastDivider by_token;
  int subvectors;  // of a token

  __device__ __forceinline__ TileRows(const QuantizeParams& p, int side_index)
      : order(p.orders[side_index]),
        by_token(p.by_subvectors[side_index]),
        subvectors(p.head_dim / p.sides[side_index].format.subvector_dim) {}
  __device__ __forceinline__ int token(int row) const { return by_token.divide(row); }
  // Position in its plane.
  __device__ __forceinline__ int place(int row) const {
    const int in_tile = token(row);
    return order.position(in_tile, row - in_tile * subvectors);
  }
};

// Places of a tile's sub-vectors in the order of the search; row(i): the one that is its i-th. By
// the whole block.
template <typename Row>
__device__ __forceinline__ void fill_places(const TileRows& rows, uint16_t* places, Row row) {
  for (int i = threadIdx.x; i < kTile * rows.subvectors; i += blockDim.x) {
    places[i] = static_cast<uint16_t>(rows.place(row(i)));
  }
}

// Places of a plane that belong to no sub-vector are never written again: their bits must not reach
// others'. By a warp.
__device__ __forceinline__ void clear_planes(uint8_t* planes, int bytes) {
  for (int i = threadIdx.x & 31; i < bytes / 16; i += 32) {
    reinterpret_cast<uint4*>(planes)[i] = make_uint4(0, 0, 0, 0);
  }
}

// Old codes of tokens that are not to be written, so that the plane can be written as a whole.
__device__ __forceinline__ void keep_others(const uint8_t* plane, int padded, int high_bits,
                                            const TileTokens& tile, const TileRows& rows,
                                            uint8_t* low, uint8_t* high) {
  for (int row = threadIdx.x & 31; row < kTile * rows.subvectors; row += 32) {
    if (tile.valid(rows.token(row))) continue;
    const int place = rows.place(row);
    low[place] = plane[place];
    if (high_bits > 0) {
      const int byte = plane[padded + high_byte(place, high_bits)];
      high[place] = byte >> high_shift(place, high_bits) & ((1 << high_bits) - 1);
    }
  }
}

// No byte of `high` may have more than its own bits.
__device__ __forceinline__ void write_plane(uint8_t* plane, int padded, int high_bits,
                                            const uint8_t* low, const uint8_t* high) {
#pragma unroll 2
  for (int i = threadIdx.x & 31; i < padded / 16; i += 32) {
    reinterpret_cast<uint4*>(plane)[i] = reinterpret_cast<const uint4*>(low)[i];
  }
  if (high_bits == 0) return;
  const int per_byte = 8 / high_bits;
#pragma unroll 1
  for (int i = threadIdx.x & 31; i < padded / per_byte; i += 32) {
    int byte = 0;
    for (int j = 0; j < per_byte; ++j) byte |= high[i * per_byte + j] << j * high_bits;
    plane[padded + i] = static_cast<uint8_t>(byte);
  }
}

// A tile's codes to memory. padded: positions of a plane.
__device__ __forceinline__ void write_tile(const QuantizeParams& p, const QuantizeBlock& place,
                                           int index, const TileRows& rows, int padded,
                                           uint8_t* low, uint8_t* high) {
  const Side& side = p.sides[place.side_index];
  const int high_bits = side.format.bits_per_code - 8;
  const TileTokens tile = place.tile(p, index);
  uint8_t* target = place.codes(p, index);
#pragma unroll 1
  for (int level = 0; level < side.format.num_codes; ++level) {
    if (!tile.whole()) {
      keep_others(target, padded, high_bits, tile, rows, low, high);
      __syncwarp();
    }
    write_plane(target, padded, high_bits, low, high);
    target += plane_bytes(side.format, p.head_dim, side.is_value), low += padded, high += padded;
  }
  __syncwarp();
}

}  // namespace vecinfer
