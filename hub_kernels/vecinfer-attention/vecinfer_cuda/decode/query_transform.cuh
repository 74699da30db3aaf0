// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The kernel in front of decode attention where the main kernel does not transform the queries
// itself: for full matrices, and for formats and devices that take the general engine.
#pragma once

#include "../common/instructions.cuh"
#include "../common/transform.cuh"
#include "params.h"
#include "row_product.cuh"
#include "split_matrix.cuh"

namespace vecinfer {

// Lanes of one row: 8 elements each, a power of two.
__host__ __device__ constexpr int query_lanes(int head_dim) {
  return head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
}

constexpr int kQueryThreads = 256;
__host__ __device__ constexpr int query_block_rows(int head_dim) {
  return kQueryThreads / query_lanes(head_dim);
}

// Diagonal transforms: a block takes chunks of all padded rows in a row.
__global__ void __launch_bounds__(kQueryThreads)
    query_diagonal_kernel(const __grid_constant__ DecodeParams p, int chunks) {
  launch_dependents();
  const int lanes = query_lanes(p.head_dim);
  const int rows_per_block = query_block_rows(p.head_dim);
  const int dim = (threadIdx.x & (lanes - 1)) * kLane;
  const Transform& transform = p.key.transform;

#pragma unroll 1
  for (int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int64_t padded_row = chunk * rows_per_block + threadIdx.x / lanes;
    const int pair = static_cast<int>(padded_row / p.padded_rows());
    const int row = static_cast<int>(padded_row - static_cast<int64_t>(pair) * p.padded_rows());
    const int b = pair / p.kv_heads, head = pair - b * p.kv_heads;
    const bool writes = dim < p.head_dim && b < p.batch;

    float x[kLane] = {};
    float mean_score = 0.f;
    if (writes && row < p.rows) {
      float weight[kLane], mean[kLane];
      load_states(p.query_row(b, head, row) + dim, p.query.aligned, p.bf16, x);
      load_weights(transform.weight + head * p.head_dim + dim, 1.f, weight);
      load_weights(transform.mean ? transform.mean + head * p.head_dim + dim : nullptr, 0.f, mean);
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        mean_score = fmaf(x[i], mean[i], mean_score);
        x[i] *= weight[i];
      }
    }
    hadamard_transform(x, hadamard_block(p.head_dim));
    for (int distance = 1; distance < lanes; distance *= 2) {
      mean_score += __shfl_xor_sync(kFullWarp, mean_score, distance);
    }
    if (!writes) continue;
    float4* target = reinterpret_cast<float4*>(p.query_float + padded_row * p.head_dim + dim);
    target[0] = make_float4(x[0], x[1], x[2], x[3]);
    target[1] = make_float4(x[4], x[5], x[6], x[7]);
    if (dim == 0) p.row_offset[padded_row] = mean_score * p.softmax_scale * kLog2E;
  }
}

// Full transforms of few rows: grid (tiles of 4 padded rows of all batch rows, Hkv). Shared memory:
// query_matrix_floats.
template <int kLaneDims>
constexpr int query_matrix_floats() {
  using Matrix = SplitMatrix<kLaneDims>;
  return Matrix::kStagedFloats + Matrix::kPartialFloats + kRowTile * 32 * kLaneDims;
}

template <int kLaneDims>
__global__ void __launch_bounds__(32 * kMatrixWarps)
    query_matrix_kernel(const __grid_constant__ DecodeParams p) {
  using Matrix = SplitMatrix<kLaneDims>;
  extern __shared__ float shared[];
  launch_dependents();
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, tile = blockIdx.x, head = blockIdx.y;
  const int dims = p.head_dim, tiles_per_row = p.padded_rows() / kRowTile;
  const Transform& transform = p.key.transform;
  float* const partial = shared + Matrix::kStagedFloats;
  float* const rows = partial + Matrix::kPartialFloats;
  const Matrix matrix(transform.weight + static_cast<int64_t>(head) * dims * dims, dims, warp,
                      shared);

  const int b = tile / tiles_per_row, row = (tile - b * tiles_per_row) * kRowTile;
  const int64_t padded_row = static_cast<int64_t>(b * p.kv_heads + head) * p.padded_rows() + row;
  if (warp < kRowTile) {
    const uint16_t* source = p.query_row(b, head, row + warp);
    const bool inside = row + warp < p.rows;
    float mean_score = 0.f;
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) {
      const int dim = lane + 32 * i;
      if (dim >= dims) break;
      const float x = inside ? state_to_float(source[dim], p.bf16) : 0.f;
      if (transform.mean != nullptr) {
        mean_score = fmaf(x, __ldg(transform.mean + head * dims + dim), mean_score);
      }
      rows[warp * dims + dim] = x;
    }
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      mean_score += __shfl_xor_sync(kFullWarp, mean_score, distance);
    }
    if (lane == 0) p.row_offset[padded_row + warp] = mean_score * p.softmax_scale * kLog2E;
  }
  __syncthreads();
  matrix.multiply(rows, dims, partial);
  __syncthreads();
  for (int i = threadIdx.x; i < kRowTile * dims; i += 32 * kMatrixWarps) {
    const int local_row = i / dims;
    p.query_float[padded_row * dims + i] = Matrix::total(partial, local_row, i - local_row * dims);
  }
}

// Full transforms of many rows: grid (blocks, Hkv); chunks are 16 of the head's padded rows of all
// batch rows, and a block fetches the matrix once for all of its chunks if registers hold it.
template <int kLaneDims>
__global__ void __launch_bounds__(32 * kMatrixWarps, 1)
    query_rows_kernel(const __grid_constant__ DecodeParams p, int chunks) {
  using Matrix = RowProduct<kLaneDims, kMatrixWarps>;
  constexpr int kRowFloats = product_row_floats(kLaneDims);
  static_assert(Matrix::kRows == kMatrixWarps);  // a warp reads a row
  __shared__ __align__(16) float rows[Matrix::kRows * kRowFloats];
  __shared__ int64_t places[Matrix::kRows];  // of the rows in query_float; -1: none
  launch_dependents();
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, head = blockIdx.y;
  const int dims = p.head_dim, padded_rows = p.padded_rows();
  const Transform& transform = p.key.transform;
  Matrix product;
  product.start(transform.weight + static_cast<int64_t>(head) * dims * dims, dims, warp);

#pragma unroll 1
  for (int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int index = chunk * Matrix::kRows + warp, b = index / padded_rows;
    const int row = index - b * padded_rows;
    const int64_t place = static_cast<int64_t>(b * p.kv_heads + head) * padded_rows + row;
    const bool inside = b < p.batch && row < p.rows;
    const uint16_t* source = p.query_row(min(b, p.batch - 1), head, row);
    float mean_score = 0.f;
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) {
      const int dim = lane + 32 * i;
      if (dim >= dims) break;
      const float x = inside ? state_to_float(source[dim], p.bf16) : 0.f;
      if (transform.mean != nullptr) {
        mean_score = fmaf(x, __ldg(transform.mean + head * dims + dim), mean_score);
      }
      rows[warp * kRowFloats + dim] = x;
    }
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      mean_score += __shfl_xor_sync(kFullWarp, mean_score, distance);
    }
    if (lane == 0) {
      places[warp] = b < p.batch ? place : -1;
      if (b < p.batch) p.row_offset[place] = mean_score * p.softmax_scale * kLog2E;
    }
    __syncthreads();
    product.run(
        [&](int i, int k) { return *reinterpret_cast<const float4*>(rows + i * kRowFloats + k); },
        [&](int i, int column, float y0, float y1) {
          if (places[i] < 0) return;
          float* target = p.query_float + places[i] * dims + column;
          *reinterpret_cast<float2*>(target) = make_float2(y0, y1);
        });
    __syncthreads();
  }
}

}  // namespace vecinfer
