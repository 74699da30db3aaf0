// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// quantize: transform, nearest centroid, pack into tile order, for a whole prefill. A block takes
// tiles of 32 tokens of one side (keys or values) of one head, so that no two blocks write the same
// bytes.
#pragma once

#include "codes.cuh"
#include "nearest.cuh"
#include "params.h"
#include "transform.cuh"

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
  bool bf16;
};

// Small blocks, many on a multiprocessor: while one waits for its tokens or at a barrier, others
// search. Eight of them leave 128 registers; on an H100 10 and 12 were slower (490, 547, 535 us for
// 32k tokens).
constexpr int kQuantizeThreads = 64;
constexpr int kQuantizeBlocks = 8;

// Shared memory of one tile. Sizes in bytes are multiples of 16.
struct QuantizeLayout {
  int rows;    // sub-vectors of 32 tokens
  int padded;  // positions of a plane
  int fixed_bytes, keys_bytes, plane_bytes, high_bytes, full_bytes;

  __host__ __device__ QuantizeLayout(const Side& side, int head_dim)
      : rows(kTile * (head_dim / side.format.subvector_dim)),
        padded(kTile * padded_subvectors(side.format, head_dim, side.is_value)),
        fixed_bytes(kTile * head_dim * 2),
        keys_bytes(side.format.bits_per_code > 8 ? rows * 4 : 0),  // only between passes
        plane_bytes(padded),
        high_bytes(side.format.bits_per_code > 8 ? padded : 0),
        full_bytes(side.transform.kind == TransformKind::kFull ? kTile * head_dim * 4 : 0) {}

  __host__ __device__ int total() const {
    return full_bytes + fixed_bytes + keys_bytes + plane_bytes + high_bytes;
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

// States of the tile's tokens to fixed point in shared memory; tokens that are not to be written
// become anything.
template <int kDim>
__device__ __forceinline__ void transform_tile(const QuantizeParams& p, const Side& side,
                                               const uint16_t* states, const StatesView& view,
                                               const TileTokens& tile, int head, float* full,
                                               __half* fixed) {
  constexpr int kBatch = 4;  // tokens of a lane that are asked for at once
  const LaneMap map(p.head_dim);
  const Transform& transform = side.transform;
  const float steps = FixedPoint<kDim>::kSteps / side.centroid_scale[head];
  const bool is_full = transform.kind == TransformKind::kFull;
  const bool is_diagonal = transform.kind == TransformKind::kDiagonal;
  const bool active = map.token < map.tokens;
  const int block = hadamard_block(p.head_dim);
  const float scale = is_full ? 1.0f : is_diagonal ? steps * hadamard_norm(block) : steps;
  const Affine affine(transform, static_cast<int64_t>(head) * p.head_dim + map.first_dim, scale,
                      active);
  const int stride = kQuantizeThreads / 32 * map.tokens;
  for (int base = threadIdx.x / 32 * map.tokens + map.token; base < kTile + map.token;
       base += kBatch * stride) {
    uint4 stored[kBatch];
    bool mine[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int in_tile = base + i * stride;
      mine[i] = active && in_tile < kTile;
      stored[i] = make_uint4(0, 0, 0, 0);
      if (mine[i] && tile.valid(in_tile)) {
        stored[i] = load_stored(states + tile.token(in_tile) * view.token_stride + map.first_dim,
                                view.aligned);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      float x[kLane];
      unpack_states(stored[i], p.bf16, x);
      affine.apply(x);
      if (is_diagonal) hadamard_butterfly(x, block);
      if (!mine[i]) continue;
      const int place = (base + i * stride) * p.head_dim + map.first_dim;
      if (is_full) {
        float4* target = reinterpret_cast<float4*>(full + place);
        target[0] = make_float4(x[0], x[1], x[2], x[3]);
        target[1] = make_float4(x[4], x[5], x[6], x[7]);
      } else {
        __half2 k[kLane / 2];
#pragma unroll
        for (int j = 0; j < kLane / 2; ++j) k[j] = to_fixed2(x[2 * j], x[2 * j + 1]);
        *reinterpret_cast<uint4*>(fixed + place) = *reinterpret_cast<const uint4*>(k);
      }
    }
  }
  if (is_full) {
    __syncthreads();
    const float* matrix = transform.weight + static_cast<int64_t>(head) * p.head_dim * p.head_dim;
    multiply_rows(full, kTile, p.head_dim, matrix, transform.transposed,
                  [&](int token, int column, float value) {
                    fixed[token * p.head_dim + column] = to_fixed(value * steps);
                  });
  }
}

// Codes of the tile's other tokens, so that the plane can be written as a whole.
__device__ __forceinline__ void read_plane(const uint8_t* plane, int padded, int high_bits,
                                           uint8_t* low, uint8_t* high) {
  for (int position = threadIdx.x; position < padded; position += kQuantizeThreads) {
    low[position] = plane[position];
    if (high_bits) {
      const int byte = plane[padded + high_byte(position, high_bits)];
      high[position] = byte >> high_shift(position, high_bits) & ((1 << high_bits) - 1);
    }
  }
}

__device__ __forceinline__ void write_plane(uint8_t* plane, int padded, int high_bits,
                                            const uint8_t* low, const uint8_t* high) {
  for (int i = threadIdx.x; i < padded / 16; i += kQuantizeThreads) {
    reinterpret_cast<uint4*>(plane)[i] = reinterpret_cast<const uint4*>(low)[i];
  }
  if (high_bits == 0) return;
  const int per_byte = 8 / high_bits;
  for (int i = threadIdx.x; i < padded / per_byte; i += kQuantizeThreads) {
    int byte = 0;
    for (int j = 0; j < per_byte; ++j) byte |= high[i * per_byte + j] << j * high_bits;
    plane[padded + i] = static_cast<uint8_t>(byte);
  }
}

template <int kDim>
__global__ void __launch_bounds__(kQuantizeThreads, kQuantizeBlocks)
    quantize_kernel(const __grid_constant__ QuantizeParams p) {
  constexpr int kTiles = 32, kPass = 8 * kTiles;  // centroids in registers at a time
  extern __shared__ __align__(16) uint8_t shared[];
  const int side_index = p.first_side + blockIdx.y / p.num_heads;
  const int head = blockIdx.y % p.num_heads;
  const int batch = blockIdx.z;
  const Side& side = p.sides[side_index];
  const StatesView& view = p.states[side_index];
  const int start = p.starts[batch], count = p.counts[batch];
  if (count <= 0 || start < 0) return;
  const int last_tile = min((start + count - 1) / kTile, p.codes.num_tiles - 1);
  const int first_tile = start / kTile + blockIdx.x;
  if (first_tile > last_tile) return;

  const QuantizeLayout layout(side, p.head_dim);
  float* full = reinterpret_cast<float*>(shared);
  __half* fixed = reinterpret_cast<__half*>(full + layout.full_bytes / 4);
  int* keys = reinterpret_cast<int*>(fixed + kTile * p.head_dim);
  uint8_t* low = reinterpret_cast<uint8_t*>(keys) + layout.keys_bytes;
  uint8_t* high = low + layout.plane_bytes;

  const CodeFormat& format = side.format;
  const int size = 1 << format.bits_per_code;
  const int high_bits = format.bits_per_code - 8;
  const int subvectors = p.head_dim / kDim;
  const PlaneOrder& order = p.orders[side_index];
  const int8_t* centroids =
      side.centroids + static_cast<int64_t>(head) * format.num_codes * size * kDim;
  const uint16_t* states =
      static_cast<const uint16_t*>(view.data) + batch * view.batch_stride + head * view.head_stride;
  uint8_t* codes =
      p.codes.data + batch * p.codes.batch_stride + head * p.codes.head_stride + side.tile_offset;
  const int plane = plane_bytes(format, p.head_dim, side.is_value);

  const FastDivider by_token = p.by_subvectors[side_index];

  CentroidFragments<kDim, kTiles> fragments;
  // With one pass over one codebook the operands stay in registers for all tiles.
  const bool reload = format.num_codes * size > kPass;
  if (!reload) fragments.load(centroids);

  for (int tile_index = first_tile; tile_index <= last_tile; tile_index += gridDim.x) {
    const TileTokens tile{tile_index * kTile, start, count, p.first[batch], p.num_tokens};
    transform_tile<kDim>(p, side, states, view, tile, head, full, fixed);
    for (int level = 0; level < format.num_codes; ++level) {
      uint8_t* target =
          codes + static_cast<int64_t>(tile_index) * p.codes.bytes_per_tile + level * plane;
      if (!tile.whole()) read_plane(target, layout.padded, high_bits, low, high);
      __syncthreads();
      const int8_t* table = centroids + level * size * kDim;
      const bool more = level + 1 < format.num_codes;
      for (int base = 0; base < size; base += kPass) {
        if (reload) fragments.load(table + base * kDim);
        for (int rows = threadIdx.x / 32 * 32; rows < layout.rows; rows += kQuantizeThreads) {
          const int row = rows + nearest_row();
          int key = nearest32(fixed + rows * kDim, fragments, base);
          if (base > 0) key = max(key, keys[row]);
          if (base + kPass < size) {
            keys[row] = key;
            continue;
          }
          key = settle_keys<kDim>(key, true, fixed + rows * kDim, nearest_row(), table, size);
          const int code = key_to_code(key, format.bits_per_code);
          const int in_tile = by_token.divide(row);
          if (tile.valid(in_tile)) {
            const int position = order.position(in_tile, row - in_tile * subvectors);
            low[position] = static_cast<uint8_t>(code);
            if (high_bits) high[position] = static_cast<uint8_t>(code >> 8);
          }
          if (more) subtract_centroid<kDim>(fixed + row * kDim, table + code * kDim);
        }
      }
      __syncthreads();
      write_plane(target, layout.padded, high_bits, low, high);
      __syncthreads();
    }
  }
}

}  // namespace vecinfer
