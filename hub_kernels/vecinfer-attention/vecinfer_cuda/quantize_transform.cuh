// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What quantize is told, its shared memory, and the transform in front of its search.
#pragma once

#include "codes.cuh"
#include "full_transform.cuh"
#include "nearest_operands.cuh"
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

// Warps of a block search on their own, each in its own tile; they share what is made once for a
// head, and a full transform. Two blocks of the most warps on a multiprocessor leave 128 registers.
constexpr int kQuantizeWarps = 8;
constexpr int kQuantizeBlocks = 2;
constexpr int kQuantizeTiles = 32;                 // of 8 centroids, searched in one pass
constexpr int kQuantizePass = 8 * kQuantizeTiles;  // centroids

// Shared memory. Sizes in bytes are multiples of 16.
struct QuantizeLayout {
  int rows;    // sub-vectors of 32 tokens
  int padded;  // positions of a plane
  // of the block
  int places_bytes, fragment_bytes, full_bytes;
  // of each warp
  int fixed_bytes, keys_bytes, low_bytes, high_bytes;

  __host__ __device__ QuantizeLayout(const Side& side, int head_dim)
      : rows(kTile * (head_dim / side.format.subvector_dim)),
        padded(kTile * padded_subvectors(side.format, head_dim, side.is_value)),
        places_bytes(rows * 2),
        fragment_bytes(kQuantizeTiles * 32 * (side.format.subvector_dim == 8 ? 8 : 4)),
        full_bytes(side.transform.kind == TransformKind::kFull ? FullTransform::part_bytes(head_dim)
                                                               : 0),
        fixed_bytes(kTile * head_dim * 2),
        keys_bytes(side.format.bits_per_code > 8 ? rows * 4 : 0),  // only between passes
        low_bytes(padded),
        high_bytes(side.format.bits_per_code > 8 ? padded : 0) {}

  __host__ __device__ int block_bytes() const { return places_bytes + fragment_bytes + full_bytes; }
  __host__ __device__ int warp_bytes() const {
    return fixed_bytes + keys_bytes + low_bytes + high_bytes;
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

// States of a warp's tile, each lane with 8 elements of a token at a time, to fixed point; tokens
// that are not to be written become anything.
template <int kDim>
__device__ __forceinline__ void transform_in_registers(const QuantizeParams& p, const Side& side,
                                                       const uint16_t* states,
                                                       const StatesView& view,
                                                       const TileTokens& tile, int head,
                                                       float steps, __half* fixed) {
  constexpr int kBatch = 8;  // tokens of a lane that are asked for at once
  const LaneMap map(p.head_dim);
  const bool is_diagonal = side.transform.kind == TransformKind::kDiagonal;
  const bool active = map.token < map.tokens;
  const int block = hadamard_block(p.head_dim);
  const Affine affine(side.transform, static_cast<int64_t>(head) * p.head_dim + map.first_dim,
                      is_diagonal ? steps * hadamard_norm(block) : steps, active);
#pragma unroll 1
  for (int base = 0; base < kTile; base += kBatch * map.tokens) {
    uint4 stored[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int in_tile = base + i * map.tokens + map.token;
      stored[i] = make_uint4(0, 0, 0, 0);
      if (active && in_tile < kTile && tile.valid(in_tile)) {
        stored[i] = load_stored(states + tile.token(in_tile) * view.token_stride + map.first_dim,
                                view.aligned);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int in_tile = base + i * map.tokens + map.token;
      float x[kLane];
      unpack_states(stored[i], p.bf16, x);
      affine.apply(x);
      if (is_diagonal) hadamard_butterfly(x, block);
      if (!active || in_tile >= kTile) continue;
      __half2 k[kLane / 2];
#pragma unroll
      for (int j = 0; j < kLane / 2; ++j) k[j] = to_fixed2(x[2 * j], x[2 * j + 1]);
      *reinterpret_cast<uint4*>(fixed + in_tile * p.head_dim + map.first_dim) =
          *reinterpret_cast<const uint4*>(k);
    }
  }
}

// The same for a full matrix, by the whole block.
__device__ __forceinline__ void transform_by_matrix(const QuantizeParams& p, const Side& side,
                                                    const uint16_t* states, const StatesView& view,
                                                    const TileTokens& tile, bool active, int head,
                                                    float steps, uint4* shared, __half* fixed) {
  const int64_t size = p.head_dim;
  const Transform& transform = side.transform;
  FullTransform full(transform.weight + head * size * size,
                     transform.mean == nullptr ? nullptr : transform.mean + head * size, p.head_dim,
                     shared);
#pragma unroll 1
  for (int first = 0; first < kTile; first += FullTransform::kTokens) {
    full.run(
        active, view.aligned, p.bf16,
        [&](int i) {
          const int token = first + i;
          return tile.valid(token) ? states + tile.token(token) * view.token_stride : nullptr;
        },
        [&](int i, int column, float x, float y) {
          *reinterpret_cast<__half2*>(fixed + (first + i) * p.head_dim + column) =
              to_fixed2(x * steps, y * steps);
        });
  }
}

}  // namespace vecinfer
