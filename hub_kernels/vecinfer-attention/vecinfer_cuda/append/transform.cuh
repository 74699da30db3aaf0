// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What append is told, its shared memory, and the transform of the tokens that leave the ring.
#pragma once

#include "../common/nearest_operands.cuh"
#include "../common/packing.cuh"
#include "../common/params.h"
#include "../common/transform.cuh"

namespace vecinfer {

constexpr int kAppendThreads = 256;
constexpr int kAppendTokens = 16;
constexpr int kAppendTiles = 4;  // centroids of one warp: 32

struct AppendParams {
  StatesView states[2];  // keys, values: [B, Hkv, T, D], T <= 16
  StatesView sinks[2];   // [B, Hkv, S, D]
  StatesView ring[2];    // [B, Hkv, C, D]
  Side sides[2];
  PlaneOrder orders[2];
  FastDivider by_subvectors[2];  // of one token
  FastDivider by_head_dim;
  CodesView codes;
  int* lengths;            // [B]
  int* quantized_lengths;  // [B]
  int batch_size;
  int num_tokens;  // T
  int num_sinks;   // S
  int ring_slots;  // C
  int head_dim;
  bool bf16;
};

// What an append does to one row.
struct RowUpdate {
  int length;     // before
  int quantized;  // before
  int leaving;    // tokens that become codes

  __device__ RowUpdate(const AppendParams& p, int batch)
      : length(p.lengths[batch]), quantized(p.quantized_lengths[batch]) {
    const int after_sinks = max(length + p.num_tokens - p.num_sinks, 0);
    leaving = max(after_sinks - p.ring_slots - quantized, 0);
  }
};

// Shared memory of one block.
struct AppendLayout {
  int full_bytes, fixed_bytes, keys_bytes;

  __host__ __device__ AppendLayout(const Side& side, int head_dim)
      : full_bytes(side.transform.kind == TransformKind::kFull
                       ? (kAppendTokens + kAppendThreads / 32) * head_dim * 4
                       : 0),
        fixed_bytes(kAppendTokens * head_dim * 2),
        keys_bytes(kAppendTokens * (head_dim / side.format.subvector_dim) * 4) {}

  __host__ __device__ int total() const { return full_bytes + fixed_bytes + keys_bytes; }
};

// emit(token, column, (rows @ weight)[token][column]) for few rows [tokens][head_dim]: each warp
// takes a part of the inner dimension, because the weight, not the arithmetic, is what takes time.
// `partial` is [warps][head_dim].
template <typename Emit>
__device__ __forceinline__ void multiply_few_rows(const float* rows, int tokens, int head_dim,
                                                  const float* weight, float* partial, Emit emit) {
  constexpr int kWarps = kAppendThreads / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int inner = head_dim / kWarps;
  for (int token = 0; token < tokens; ++token) {
    const float* x = rows + token * head_dim + warp * inner;
    for (int column = lane * 4; column < head_dim; column += 128) {
      float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
      for (int i = 0; i < inner; ++i) {
        const float4 w =
            __ldg(reinterpret_cast<const float4*>(weight + (warp * inner + i) * head_dim + column));
        sum.x = fmaf(x[i], w.x, sum.x), sum.y = fmaf(x[i], w.y, sum.y);
        sum.z = fmaf(x[i], w.z, sum.z), sum.w = fmaf(x[i], w.w, sum.w);
      }
      *reinterpret_cast<float4*>(partial + warp * head_dim + column) = sum;
    }
    __syncthreads();
    for (int column = threadIdx.x; column < head_dim; column += kAppendThreads) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) sum += partial[i * head_dim + column];
      emit(token, column, sum);
    }
    __syncthreads();
  }
}

// The leaving tokens, transformed, in fixed point. Ends with a barrier.
template <int kDim>
__device__ __forceinline__ void transform_leaving(const AppendParams& p, const Side& side,
                                                  const StatesView& ring, const RowUpdate& update,
                                                  int head, int batch, float* full, __half* fixed) {
  const uint16_t* tokens =
      static_cast<const uint16_t*>(ring.data) + batch * ring.batch_stride + head * ring.head_stride;
  const LaneMap map(p.head_dim);
  const Transform& transform = side.transform;
  const float steps = FixedPoint<kDim>::kSteps / side.centroid_scale[head];
  const bool is_full = transform.kind == TransformKind::kFull;
  const bool is_diagonal = transform.kind == TransformKind::kDiagonal;
  const bool active = map.token < map.tokens;
  const int block = hadamard_block(p.head_dim);
  const float scale = is_full ? 1.0f : is_diagonal ? steps * hadamard_norm(block) : steps;
  const int warp = threadIdx.x / 32;
  for (int base = warp * map.tokens; base < update.leaving;
       base += kAppendThreads / 32 * map.tokens) {
    const int index = base + map.token;
    const int slot = (update.quantized + index) % p.ring_slots;
    const bool mine = active && index < update.leaving;
    uint4 stored = make_uint4(0, 0, 0, 0);
    if (mine) stored = load_stored(tokens + slot * ring.token_stride + map.first_dim, ring.aligned);
    const Affine affine(transform, static_cast<int64_t>(head) * p.head_dim + map.first_dim, scale,
                        mine);
    float x[kLane];
    unpack_states(stored, p.bf16, x);
    affine.apply(x);
    if (is_diagonal) hadamard_butterfly(x, block);
    if (!mine) continue;
    const int place = index * p.head_dim + map.first_dim;
#pragma unroll
    for (int i = 0; i < kLane; i += 2) {
      if (is_full) {
        full[place + i] = x[i], full[place + i + 1] = x[i + 1];
      } else {
        *reinterpret_cast<__half2*>(fixed + place + i) = to_fixed2(x[i], x[i + 1]);
      }
    }
  }
  __syncthreads();
  if (is_full) {
    const float* matrix = transform.weight + static_cast<int64_t>(head) * p.head_dim * p.head_dim;
    float* partial = full + kAppendTokens * p.head_dim;
    multiply_few_rows(full, update.leaving, p.head_dim, matrix, partial,
                      [&](int token, int column, float value) {
                        fixed[token * p.head_dim + column] = to_fixed(value * steps);
                      });
  }
}

}  // namespace vecinfer
