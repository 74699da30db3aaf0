// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The kernel in front of decode attention: transforms the queries, writes them as the 16-bit
// integers that the int8 kernel multiplies, and copies them to rows without strides for the exact
// tokens.
#pragma once

#include "decode_attention_params.h"
#include "instructions.cuh"
#include "transform.cuh"

namespace vecinfer {

// Lanes of one row: 8 elements each, a power of two.
__host__ __device__ constexpr int query_lanes(int head_dim) {
  return head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
}

// Threads of a block. Diagonal: large blocks, as each keeps a block of the main kernel off its
// multiprocessor while it runs. Full: a thread per column.
__host__ __device__ constexpr int query_threads(bool full) { return full ? 256 : 1024; }
__host__ __device__ constexpr int query_block_rows(bool full, int head_dim) {
  return query_threads(full) / query_lanes(head_dim);
}

// Full: a block takes chunks of rows of one (batch row, kv head), `chunks` per pair. Diagonal: of
// all padded rows in a row. Also empties the records' maxima, so that records that nobody writes
// weigh nothing. Shared memory for a full transform only: 2 * rows rounded up to 8 * D floats.
template <bool kFull>
__global__ void __launch_bounds__(query_threads(kFull))
    query_transform_kernel(const __grid_constant__ DecodeParams p, int chunks) {
  extern __shared__ float exchange[];
  launch_dependents();
  const int lanes = query_lanes(p.head_dim);
  const int rows_per_block = query_block_rows(kFull, p.head_dim);
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
      const int member = row / p.query_tokens;
      const uint16_t* source = static_cast<const uint16_t*>(p.query.data) +
                               b * p.query.batch_stride +
                               (head * p.group + member) * p.query.head_stride +
                               (row - member * p.query_tokens) * p.query.token_stride + dim;
      load_states(source, p.query.aligned, p.bf16, x);
      if (!kFull) load_weights(transform.weight + head * p.head_dim + dim, 1.f, weight);
    }
    float mean_score = 0.f;
    if (transform.mean != nullptr && inside) {
      float mean[kLane];
      load_weights(transform.mean + head * p.head_dim + dim, 0.f, mean);
#pragma unroll
      for (int i = 0; i < kLane; ++i) mean_score = fmaf(x[i], mean[i], mean_score);
    }
    if (writes) {
      uint32_t words[kLane / 2];
#pragma unroll
      for (int i = 0; i < kLane / 2; ++i) {
        words[i] = p.bf16 ? HalfPair<true>::pack(x[2 * i], x[2 * i + 1])
                          : HalfPair<false>::pack(x[2 * i], x[2 * i + 1]);
      }
      *reinterpret_cast<uint4*>(p.query_rows + padded_row * p.head_dim + dim) =
          make_uint4(words[0], words[1], words[2], words[3]);
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

    float largest = 0.f;
    if (inside) {
#pragma unroll
      for (int i = 0; i < kLane; ++i) largest = max_nan(largest, fabsf(x[i]));
    }
    for (int distance = 1; distance < lanes; distance *= 2) {
      largest = max_nan(largest, __shfl_xor_sync(kFullWarp, largest, distance));
      mean_score += __shfl_xor_sync(kFullWarp, mean_score, distance);
    }
    if (!writes) continue;
    const float offset = mean_score * log2_scale;
    if (p.query_float != nullptr) {
      float4* target = reinterpret_cast<float4*>(p.query_float + padded_row * p.head_dim + dim);
      target[0] = make_float4(x[0], x[1], x[2], x[3]);
      target[1] = make_float4(x[4], x[5], x[6], x[7]);
      if (dim == 0) p.row_scale[padded_row] = make_float2(0.f, offset);
      continue;
    }
    const float inverse = largest > 0.f ? static_cast<float>(p.query_limit) / largest : 0.f;
    uint32_t high[2] = {}, low[2] = {};
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const int value = __float2int_rn(x[i] * inverse);
      const int high_byte = (value + 128) >> 8;
      high[i / 4] |= static_cast<uint32_t>(high_byte & 255) << (i % 4 * 8);
      low[i / 4] |= static_cast<uint32_t>(value & 255) << (i % 4 * 8);
    }
    const int lane_bytes = p.head_dim / 4;
    const int part = dim / lane_bytes;
    int8_t* fragment = p.query_bytes + padded_row / kRowTile * 8 * p.head_dim +
                       (row % kRowTile * 8 + part) * lane_bytes + dim - part * lane_bytes;
    *reinterpret_cast<uint2*>(fragment) = make_uint2(high[0], high[1]);
    *reinterpret_cast<uint2*>(fragment + 4 * lane_bytes) = make_uint2(low[0], low[1]);
    if (dim == 0) {
      const float step = largest / p.query_limit * log2_scale * __ldg(p.key.centroid_scale + head);
      // Not 0: masked scores of -inf times this must stay -inf.
      p.row_scale[padded_row] = make_float2(step < 1e-30f ? 1e-30f : step, offset);
    }
  }

  const int maxima = p.kv_heads * p.row_groups * p.slots() * p.rows_per_group;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < maxima; i += gridDim.x * blockDim.x) {
    const int record = i / p.rows_per_group;
    p.records[static_cast<int64_t>(record) * p.record_floats() + p.rows_per_group * p.head_dim + i -
              record * p.rows_per_group] = -INFINITY;
  }
}

}  // namespace vecinfer
