// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// quantize: transform, nearest centroid, pack into tile order, for a whole prefill. A warp takes
// tiles of 32 tokens of one side (keys or values) of one head, so that no two warps write the same
// bytes.
#pragma once

#include "nearest.cuh"
#include "quantize_transform.cuh"

namespace vecinfer {

// Codes of the tile's other tokens, so that the plane can be written as a whole.
__device__ __forceinline__ void read_plane(const uint8_t* plane, int padded, int high_bits,
                                           uint8_t* low, uint8_t* high) {
  for (int position = threadIdx.x & 31; position < padded; position += 32) {
    low[position] = plane[position];
    if (high_bits) {
      const int byte = plane[padded + high_byte(position, high_bits)];
      high[position] = byte >> high_shift(position, high_bits) & ((1 << high_bits) - 1);
    }
  }
}

__device__ __forceinline__ void write_plane(uint8_t* plane, int padded, int high_bits,
                                            const uint8_t* low, const uint8_t* high) {
  for (int i = threadIdx.x & 31; i < padded / 16; i += 32) {
    reinterpret_cast<uint4*>(plane)[i] = reinterpret_cast<const uint4*>(low)[i];
  }
  if (high_bits == 0) return;
  const int per_byte = 8 / high_bits;
  for (int i = threadIdx.x & 31; i < padded / per_byte; i += 32) {
    // Places of the padding hold anything; their bits must stay their own.
    const int own_bits = (1 << high_bits) - 1;
    int byte = 0;
    for (int j = 0; j < per_byte; ++j) {
      byte |= (high[i * per_byte + j] & own_bits) << j * high_bits;
    }
    plane[padded + i] = static_cast<uint8_t>(byte);
  }
}

// What a warp searches in.
struct WarpTile {
  __half* fixed;
  int* keys;
  uint8_t *low, *high;

  __device__ __forceinline__ WarpTile(const QuantizeLayout& layout, uint8_t* own)
      : fixed(reinterpret_cast<__half*>(own)),
        keys(reinterpret_cast<int*>(own + layout.fixed_bytes)),
        low(own + layout.fixed_bytes + layout.keys_bytes),
        high(low + layout.low_bytes) {}
};

// One warp's search among the kQuantizePass centroids from number `base` on of a table of 2^bits,
// and what follows from it after the last of these passes. more: another level follows. places:
// position in the plane of each row. far: see any_far.
template <int kDim>
__device__ __forceinline__ void search_tile(
    const SharedCentroidFragments<kDim, kQuantizeTiles>& fragments, const WarpTile& own,
    const uint16_t* places, const TileTokens& tile, FastDivider by_token, int num_rows,
    const int8_t* table, int bits, int base, bool more, bool far) {
  constexpr int kGroups = 2;
  const int size = 1 << bits;
  const bool whole = tile.whole();
  const uint32_t constants = RowFragment<kDim>::constants();
#pragma unroll 1
  for (int rows = 0; rows < num_rows; rows += 32 * kGroups) {
    int found[kGroups];
    find_nearest<kDim, kQuantizeTiles>(own.fixed + rows * kDim, fragments, constants, base, found);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const int first = rows + 32 * group, row = first + nearest_row();
      int key = found[group];
      if (base > 0) key = max(key, own.keys[row]);
      if (base + kQuantizePass < size) {
        own.keys[row] = key;
        continue;
      }
      if (__any_sync(kFullWarp, far || key < kNoScore)) {
        key = settle_keys<kDim>(key, true, own.fixed + first * kDim, nearest_row(), table, size);
      }
      const int code = key_to_code(key, bits);
      if (whole || tile.valid(by_token.divide(row))) {
        const int place = places[row];
        own.low[place] = static_cast<uint8_t>(code);
        if (bits > 8) own.high[place] = static_cast<uint8_t>(code >> 8);
      }
      if (more) subtract_centroid<kDim>(own.fixed + row * kDim, table + code * kDim);
    }
  }
}

// kFull: some side has a full transform; apart, as its registers would slow the search of others.
template <int kDim, bool kFull>
__global__ void __launch_bounds__(32 * kQuantizeWarps, kQuantizeBlocks)
    quantize_kernel(const __grid_constant__ QuantizeParams p) {
  extern __shared__ __align__(16) uint8_t shared[];
  const int side_index = p.first_side + blockIdx.y / p.num_heads;
  const int head = blockIdx.y % p.num_heads;
  const int batch = blockIdx.z;
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const Side& side = p.sides[side_index];
  const StatesView& view = p.states[side_index];
  const int start = p.starts[batch], count = p.counts[batch];
  if (count <= 0 || start < 0) return;
  const int last_tile = min((start + count - 1) / kTile, p.codes.num_tiles - 1);
  const int first_tile = start / kTile + blockIdx.x * warps;
  if (first_tile > last_tile) return;

  const QuantizeLayout layout(side, p.head_dim);
  uint4* full = reinterpret_cast<uint4*>(shared);
  SharedCentroidFragments<kDim, kQuantizeTiles> fragments(shared + layout.full_bytes);
  uint16_t* places =
      reinterpret_cast<uint16_t*>(shared + layout.full_bytes + layout.fragment_bytes);
  const WarpTile own(layout, shared + layout.block_bytes() + warp * layout.warp_bytes());

  const CodeFormat& format = side.format;
  const int bits = format.bits_per_code, size = 1 << bits, high_bits = bits - 8;
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
  // A codebook of one pass is laid out once, a larger one pass by pass for every tile.
  const bool once = format.num_codes * size == kQuantizePass;

  {
    const PlaneOrder& order = p.orders[side_index];
    const int subvectors = p.head_dim / kDim;
    for (int row = threadIdx.x; row < layout.rows; row += blockDim.x) {
      const int token = by_token.divide(row);
      places[row] = static_cast<uint16_t>(order.position(token, row - token * subvectors));
    }
  }
  if (once) fragments.load(centroids);
  __syncthreads();

#pragma unroll 1
  for (int round = first_tile; round <= last_tile; round += gridDim.x * warps) {
    const int tile_index = round + warp;
    const bool active = tile_index <= last_tile;
    const TileTokens tile{tile_index * kTile, start, count, p.first[batch], p.num_tokens};
    if (is_full) {
      transform_by_matrix(p, side, states, view, tile, active, head, steps, full, own.fixed);
    } else if (active) {
      transform_in_registers<kDim>(p, side, states, view, tile, head, steps, own.fixed);
    }
#pragma unroll 1
    for (int level = 0; level < format.num_codes; ++level) {
      const int8_t* table = centroids + level * size * kDim;
      uint8_t* target =
          codes + static_cast<int64_t>(tile_index) * p.codes.bytes_per_tile + level * plane;
      if (active && !tile.whole()) {
        read_plane(target, layout.padded, high_bits, own.low, own.high);
      }
      __syncwarp();
      const bool far = active && any_far<kDim>(own.fixed, layout.rows);
#pragma unroll 1
      for (int base = 0; base < size; base += kQuantizePass) {
        if (!once) {
          __syncthreads();
          fragments.load(table + base * kDim);
          __syncthreads();
        }
        if (active) {
          search_tile<kDim>(fragments, own, places, tile, by_token, layout.rows, table, bits, base,
                            level + 1 < format.num_codes, far);
        }
      }
      __syncwarp();
      if (active) write_plane(target, layout.padded, high_bits, own.low, own.high);
      __syncwarp();
    }
  }
}

}  // namespace vecinfer
