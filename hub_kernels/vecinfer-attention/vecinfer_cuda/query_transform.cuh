// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The kernel in front of decode attention where the main kernel does not transform the queries
// itself: for full matrices, and for formats and devices that take the general engine.
#pragma once

#include "decode_attention_params.h"
#include "instructions.cuh"
#include "transform.cuh"

namespace vecinfer {

// Lanes of one row: 8 elements each, a power of two.
__host__ __device__ constexpr int query_lanes(int head_dim) {
  return head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
}

// Threads of a block: one per column of the largest full matrix.
constexpr int kQueryThreads = 256;
__host__ __device__ constexpr int query_block_rows(int head_dim) {
  return kQueryThreads / query_lanes(head_dim);
}

// Full: a block takes chunks of rows of one (batch row, kv head), `chunks` per pair. Diagonal: of
// all padded rows in a row. Shared memory for a full transform only: 2 * rows rounded up to 8 * D
// floats.
template <bool kFull>
__global__ void __launch_bounds__(kQueryThreads)
    query_transform_kernel(const __grid_constant__ DecodeParams p, int chunks) {
  extern __shared__ float exchange[];
  launch_dependents();
  const int lanes = query_lanes(p.head_dim);
  const int rows_per_block = query_block_rows(p.head_dim);
  const int local_row = threadIdx.x / lanes;
  const int dim = (threadIdx.x & (lanes - 1)) * kLane;
  const float log2_scale = p.softmax_scale * kLog2E;
  const Transform& transform = p.key.transform;

#pragma unroll 1
  for (int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    int pair, row;
    if (kFull) {
      const int per_pair = (p.padded_rows() + rows_per_block - 1) / rows_per_block;
      pair = chunk / per_pair;
      row = (chunk - pair * per_pair) * rows_per_block + local_row;
    } else {
      const int index = chunk * rows_per_block + local_row;
      pair = index / p.padded_rows();
      row = index - pair * p.padded_rows();
    }
    const int b = pair / p.kv_heads, head = pair - b * p.kv_heads;
    const int64_t padded_row = static_cast<int64_t>(pair) * p.padded_rows() + row;
    const bool inside = dim < p.head_dim && row < p.rows && b < p.batch;
    const bool writes = dim < p.head_dim && row < p.padded_rows() && b < p.batch;

    float x[kLane] = {};
    float weight[kLane];
    if (inside) {
      load_states(p.query_row(b, head, row) + dim, p.query.aligned, p.bf16, x);
      if (!kFull) load_weights(transform.weight + head * p.head_dim + dim, 1.f, weight);
    }
    float mean_score = 0.f;
    if (transform.mean != nullptr && inside) {
      float mean[kLane];
      load_weights(transform.mean + head * p.head_dim + dim, 0.f, mean);
#pragma unroll
      for (int i = 0; i < kLane; ++i) mean_score = fmaf(x[i], mean[i], mean_score);
    }
    if constexpr (kFull) {
      float* result = exchange + (rows_per_block + 7) / 8 * 8 * p.head_dim;
      __syncthreads();  // before the last chunk's rows are overwritten
      if (dim < p.head_dim) {
#pragma unroll
        for (int i = 0; i < kLane; ++i) exchange[local_row * p.head_dim + dim + i] = x[i];
      }
      __syncthreads();
      const float* matrix = transform.weight + static_cast<int64_t>(head) * p.head_dim * p.head_dim;
      multiply_rows(exchange, rows_per_block, p.head_dim, matrix, false,
                    [&](int r, int column, float y) { result[r * p.head_dim + column] = y; });
      __syncthreads();
      if (dim < p.head_dim) {
#pragma unroll
        for (int i = 0; i < kLane; ++i) x[i] = result[local_row * p.head_dim + dim + i];
      }
    } else {
      if (inside) {
#pragma unroll
        for (int i = 0; i < kLane; ++i) x[i] *= weight[i];
      }
      hadamard_transform(x, hadamard_block(p.head_dim));
    }

    for (int distance = 1; distance < lanes; distance *= 2) {
      mean_score += __shfl_xor_sync(kFullWarp, mean_score, distance);
    }
    if (!writes) continue;
    float4* target = reinterpret_cast<float4*>(p.query_float + padded_row * p.head_dim + dim);
    target[0] = make_float4(x[0], x[1], x[2], x[3]);
    target[1] = make_float4(x[4], x[5], x[6], x[7]);
    if (dim == 0) p.row_offset[padded_row] = mean_score * log2_scale;
  }
}

}  // namespace vecinfer
