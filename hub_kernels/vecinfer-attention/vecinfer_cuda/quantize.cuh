// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// quantize: transform, nearest centroid, pack into tile order, for a whole prefill. A warp takes
// tiles of 32 tokens of one side (keys or values) of one head, so that no two warps write the same
// bytes. It does so chunk by chunk: while it searches one, the next is fetched.
#pragma once

#include "quantize_search.cuh"
#include "quantize_transform.cuh"

namespace vecinfer {

// Old codes of tokens that are not to be written, so that the plane can be written as a whole.
// places: of the tile's sub-vectors.
__device__ __forceinline__ void keep_others(const uint8_t* plane, int padded, int high_bits,
                                            const TileTokens& tile, FastDivider by_token, int rows,
                                            const uint16_t* places, uint8_t* low, uint8_t* high) {
  for (int row = threadIdx.x & 31; row < rows; row += 32) {
    if (tile.valid(by_token.divide(row))) continue;
    const int place = places[row];
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

// kFull: some side has a full transform; apart, as its registers would slow the search of others.
template <int kDim, bool kFull>
__global__ void __launch_bounds__(32 * kQuantizeWarps, 1)
    quantize_kernel(const __grid_constant__ QuantizeParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const int side_index = p.first_side + blockIdx.y / p.num_heads;
  const int head = blockIdx.y % p.num_heads;
  const int batch = blockIdx.z;
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const Side& side = p.sides[side_index];
  const StatesView& view = p.states[side_index];
  const int start = p.starts[batch], count = p.counts[batch], first_token = p.first[batch];
  if (count <= 0 || start < 0) return;
  // A row's blocks share its tiles evenly, whatever their number.
  const int row_first = start / kTile;
  const int64_t row_tiles = min((start + count - 1) / kTile + 1, p.codes.num_tiles) - row_first;
  const int first_tile = row_first + static_cast<int>(row_tiles * blockIdx.x / gridDim.x);
  const int end_tile = row_first + static_cast<int>(row_tiles * (blockIdx.x + 1) / gridDim.x);
  if (first_tile >= end_tile) return;

  const QuantizeLayout layout(side, p.head_dim, p.full_columns);
  uint8_t* at = shared + layout.operand_bytes;
  uint4* matrix = reinterpret_cast<uint4*>(at);
  at += layout.full_bytes;
  float* shift = reinterpret_cast<float*>(at);
  at += layout.shift_bytes;
  uint16_t* places = reinterpret_cast<uint16_t*>(at);
  at += layout.places_bytes;
  const WarpMemory own(layout, at + warp * layout.warp_bytes());

  // Places of a plane that belong to no sub-vector are never written again: their bits must not
  // reach others'.
  for (int i = threadIdx.x & 31; i < (layout.low_bytes + layout.high_bytes) / 16; i += 32) {
    reinterpret_cast<uint4*>(own.low)[i] = make_uint4(0, 0, 0, 0);
  }

  const CodeFormat& format = side.format;
  const int bits = format.bits_per_code, size = 1 << bits, high_bits = bits - 8;
  const int passes = format.num_codes * size / kQuantizePass;
  const bool once = passes <= layout.sets;
  const FastDivider by_token = p.by_subvectors[side_index];
  const int8_t* centroids =
      side.centroids + static_cast<int64_t>(head) * format.num_codes * size * kDim;
  const uint16_t* states =
      static_cast<const uint16_t*>(view.data) + batch * view.batch_stride + head * view.head_stride;
  uint8_t* codes =
      p.codes.data + batch * p.codes.batch_stride + head * p.codes.head_stride + side.tile_offset;
  const int plane = plane_bytes(format, p.head_dim, side.is_value);
  const float steps = FixedPoint<kDim>::kSteps / side.centroid_scale[head];
  const bool is_full = kFull && side.transform.kind == TransformKind::kFull;

  const LaneMap map(p.head_dim);
  const auto tile_of = [&](int index) {
    return TileTokens{index * kTile, start, count, first_token, p.num_tokens};
  };
  const auto fetch = [&](int index, int first_in_tile) {
    if (index >= end_tile) return;
    fetch_chunk(states, view, map, tile_of(index), first_in_tile, own.raw, layout.raw_stride);
  };
  fetch(first_tile + warp, 0);

  const auto operands = [&](int set) {
    return PassOperands<kDim>(shared + set * layout.set_bytes);
  };
  {
    const PlaneOrder& order = p.orders[side_index];
    const int subvectors = p.head_dim / kDim;
    for (int row = threadIdx.x; row < kTile * subvectors; row += blockDim.x) {
      const int token = by_token.divide(row);
      places[row] = static_cast<uint16_t>(order.position(token, row - token * subvectors));
    }
  }
  if (once) {
#pragma unroll 1
    for (int set = 0; set < passes; ++set) {
      operands(set).load(centroids + set * kQuantizePass * kDim);
    }
  }
  const auto full = [&] {
    const int64_t place = static_cast<int64_t>(head) * p.head_dim;
    const Transform& transform = side.transform;
    return FullTransform(transform.weight + place * p.head_dim,
                         transform.mean == nullptr ? nullptr : transform.mean + place, p.head_dim,
                         p.full_columns, matrix, shift);
  };
  if (is_full) {
    full().prepare(steps);
  } else {
    prepare_affine(side.transform, head, p.head_dim, steps, shift);
  }
  __syncthreads();

#pragma unroll 1
  for (int round = first_tile; round < end_tile; round += warps) {
    const int tile_index = round + warp;
    const bool active = tile_index < end_tile;
#pragma unroll 1
    for (int chunk = 0; chunk < kTile; chunk += kChunk) {
      wait_copies<0>();
      __syncwarp();
      bool far = false;
      if (is_full) {
        far = transform_by_matrix<kDim>(full(), active, own.raw, layout.raw_stride, p.bf16, steps,
                                        p.head_dim, own.fixed);
      } else if (active) {
        const bool diagonal = side.transform.kind == TransformKind::kDiagonal;
        if (p.bf16) {
          far = transform_in_registers<kDim, true>(map, diagonal, shift, p.head_dim, own.raw,
                                                   layout.raw_stride, own.fixed);
        } else {
          far = transform_in_registers<kDim, false>(map, diagonal, shift, p.head_dim, own.raw,
                                                    layout.raw_stride, own.fixed);
        }
      }
      __syncwarp();
      const bool ended = chunk + kChunk == kTile;
      fetch(ended ? tile_index + warps : tile_index, ended ? 0 : chunk + kChunk);
      if (far) {
        clamp_fixed(own.fixed, kChunk * p.head_dim);
        __syncwarp();
      }
#pragma unroll 1
      for (int pass = 0; pass < passes; ++pass) {
        const int level = pass * kQuantizePass >> bits;
        const int8_t* table = centroids + level * size * kDim;
        constexpr int kAll = 0x7fffffff;
        const PassOrder order{table, bits, pass * kQuantizePass - level * size,
                              far ? kAll : kNoScore, level + 1 < format.num_codes};
        if (!once) {
          __syncthreads();
          operands(0).load(table + order.base * kDim);
          __syncthreads();
        }
        if (!active) continue;
        const uint16_t* chunk_places = places + (chunk == 0 ? 0 : layout.rows);
        uint8_t* low = own.low + level * layout.padded;
        uint8_t* high = own.high + level * layout.padded;
        const auto search = operands(once ? pass : 0);
        if (bits == 8 && !order.more) {
          search_chunk<kDim, true>(search, order, layout.rows, chunk_places, own.fixed, own.keys,
                                   low, high);
        } else {
          search_chunk<kDim, false>(search, order, layout.rows, chunk_places, own.fixed, own.keys,
                                    low, high);
        }
        if (order.more) {
          __syncwarp();
          far = active && any_far<kDim>(own.fixed, kChunk * p.head_dim);
        }
      }
      __syncwarp();
    }
    if (!active) continue;
    const TileTokens tile = tile_of(tile_index);
#pragma unroll 1
    for (int level = 0; level < format.num_codes; ++level) {
      uint8_t* target =
          codes + static_cast<int64_t>(tile_index) * p.codes.bytes_per_tile + level * plane;
      uint8_t* low = own.low + level * layout.padded;
      uint8_t* high = own.high + level * layout.padded;
      if (!tile.whole()) {
        keep_others(target, layout.padded, high_bits, tile, by_token, 2 * layout.rows, places, low,
                    high);
        __syncwarp();
      }
      write_plane(target, layout.padded, high_bits, low, high);
    }
    __syncwarp();
  }
}

}  // namespace vecinfer
