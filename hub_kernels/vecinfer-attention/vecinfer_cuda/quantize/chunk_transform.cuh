// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// A warp's chunk of tokens on its way to the search of quantize: fetched, transformed, in fixed
// point.
#pragma once

#include "../common/nearest.cuh"
#include "layout.cuh"

namespace vecinfer {

// Starts to fetch the chunk's states to shared memory; zeros where no token is to be written.
__device__ __forceinline__ void fetch_chunk(const uint16_t* states, const StatesView& view,
                                            const LaneMap& map, const TileTokens& tile,
                                            int first_in_tile, uint8_t* raw, int raw_stride) {
  if (map.token < map.tokens) {
    const bool whole = tile.whole();
    const uint16_t* source =
        states + tile.token(first_in_tile + map.token) * view.token_stride + map.first_dim;
    uint8_t* target = raw + map.token * raw_stride + map.first_dim * 2;
#pragma unroll 4
    for (int token = map.token; token < kChunk; token += map.tokens) {
      if (!whole && !tile.valid(first_in_tile + token)) {
        *reinterpret_cast<uint4*>(target) = make_uint4(0, 0, 0, 0);
      } else if (view.aligned) {
        copy_async<16>(shared_address(target), source);
      } else {
        *reinterpret_cast<uint4*>(target) = load_stored(source, false);
      }
      source += map.tokens * view.token_stride;
      target += map.tokens * raw_stride;
    }
  }
  commit_copies();
}

// What a transform that is not a full matrix does before H: [D] factors, then [D] shifts. By the
// whole block, with a barrier to follow.
__device__ __forceinline__ void prepare_affine(const Transform& transform, int head, int head_dim,
                                               float steps, float* affine) {
  const bool diagonal = transform.kind == TransformKind::kDiagonal;
  const float scale = diagonal ? steps * hadamard_norm(hadamard_block(head_dim)) : steps;
  for (int dim = threadIdx.x; dim < head_dim; dim += blockDim.x) {
    const int place = head * head_dim + dim;
    const float factor = (diagonal ? transform.weight[place] : 1.0f) * scale;
    affine[dim] = factor;
    affine[head_dim + dim] = (transform.mean ? transform.mean[place] : 0.0f) * -factor;
  }
}

// Such a transform of a chunk, each lane with 8 elements of a token at a time, to fixed point.
// Returns whether a sub-vector is far.
template <int kDim, bool kBf16>
__device__ __forceinline__ bool transform_in_registers(const LaneMap& map, bool diagonal,
                                                       const float* affine, int head_dim,
                                                       const uint8_t* raw, int raw_stride,
                                                       __half* fixed) {
  constexpr int kBatch = 4;  // tokens of a lane at once
  const int block = hadamard_block(head_dim);
  const bool active = map.token < map.tokens;
  FarDetector<kDim> far;
#pragma unroll 1
  for (int base = 0; base < kChunk; base += kBatch * map.tokens) {
    float factor[kLane], shift[kLane];
#pragma unroll
    for (int i = 0; i < kLane; i += 4) {
      const float4 a = *reinterpret_cast<const float4*>(affine + map.first_dim + i);
      const float4 b = *reinterpret_cast<const float4*>(affine + head_dim + map.first_dim + i);
      factor[i] = a.x, factor[i + 1] = a.y, factor[i + 2] = a.z, factor[i + 3] = a.w;
      shift[i] = b.x, shift[i + 1] = b.y, shift[i + 2] = b.z, shift[i + 3] = b.w;
    }
    float x[kBatch][kLane];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int token = min(base + i * map.tokens + map.token, kChunk - 1);
      unpack_states(*reinterpret_cast<const uint4*>(raw + token * raw_stride + map.first_dim * 2),
                    kBf16, x[i]);
#pragma unroll
      for (int j = 0; j < kLane; ++j) x[i][j] = fmaf(x[i][j], factor[j], shift[j]);
    }
    if (diagonal) hadamard_butterfly<kBatch>(x, block);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int token = base + i * map.tokens + map.token;
      __half2 k[kLane / 2];
#pragma unroll
      for (int j = 0; j < kLane / 2; ++j) {
        k[j] = to_fixed2_unclamped(x[i][2 * j], x[i][2 * j + 1]);
      }
      if (!active || token >= kChunk) continue;
      far.template look<kLane / kDim>(k);
      *reinterpret_cast<uint4*>(fixed + token * head_dim + map.first_dim) =
          *reinterpret_cast<const uint4*>(k);
    }
  }
  return far.found();
}

// The same for a full matrix. The whole block calls it if the matrix does not stay.
template <int kDim>
__device__ __forceinline__ bool transform_by_matrix(FullTransform full, bool active,
                                                    const uint8_t* raw, int raw_stride, bool bf16,
                                                    float steps, int head_dim, __half* fixed) {
  static_assert(FullTransform::kTokens == kChunk);
  full.run(active, raw, raw_stride, bf16, steps, [&](int token, int column, float x, float y) {
    *reinterpret_cast<__half2*>(fixed + token * head_dim + column) = to_fixed2_unclamped(x, y);
  });
  __syncwarp();
  return active && any_far<kDim>(fixed, kChunk * head_dim);
}

}  // namespace vecinfer
