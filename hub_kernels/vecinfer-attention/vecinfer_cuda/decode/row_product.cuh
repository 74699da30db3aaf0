// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Up to 16 rows times a full matrix by one block, on bf16 tensor cores: both operands are split
// into a high and a low bf16 and three of the four products are summed in fp32, an error of at most
// 2^-16 of the sum of the terms' sizes. Fetching the matrix is what takes time, so it is asked for
// early: each warp has some columns, 8 at a time, and reads its part straight to registers.
#pragma once

#include "../common/instructions.cuh"

namespace vecinfer {

// Floats from one row in shared memory to the next: 8 lanes read 16 bytes each at a time, of two
// rows, and find them in different banks. kLaneDims: D / 32, rounded up.
__host__ __device__ constexpr int product_row_floats(int lane_dims) { return 32 * lane_dims + 16; }

template <int kLaneDims, int kWarps>
class RowProduct {
  static constexpr int kStep = 16;              // inner dimension of an mma
  static constexpr int kColumns = 8;            // of an mma
  static constexpr int kInner = kLaneDims * 2;  // steps
  static constexpr int kTiles = (kLaneDims * 32 / kColumns + kWarps - 1) / kWarps;  // of a warp
  // Large matrices do not fit into registers; they pass through them, some steps at a time.
  static constexpr bool kHeld = kTiles * kInner <= 16;
  static constexpr int kSteps = kHeld ? kInner : 8;

 public:
  static constexpr int kRows = 16;

  // Starts to fetch the part of a [dims, dims] matrix that is warp `warp`'s of kWarps.
  __device__ __forceinline__ void start(const float* matrix, int dims, int warp) {
    matrix_ = matrix;
    dims_ = dims;
    warp_ = warp;
    if constexpr (kHeld) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) load(warp + i * kWarps, 0, weight_[i]);
    }
  }

  // rows(i, k): elements k .. k + 3 of row i as float4; emit(i, column, y[column], y[column + 1]).
  template <typename Rows, typename Emit>
  __device__ __forceinline__ void run(Rows rows, Emit emit) {
    if constexpr (kHeld) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        float sum[4] = {};
        const int tile = warp_ + i * kWarps;
        if (tile * kColumns >= dims_) break;
        multiply(rows, 0, weight_[i], sum);
        finish(tile, sum, emit);
      }
    } else {
#pragma unroll 1
      for (int tile = warp_; tile * kColumns < dims_; tile += kWarps) {
        float sum[4] = {};
#pragma unroll 1
        for (int first = 0; first * kStep < dims_; first += kSteps) {
          load(tile, first, weight_[0]);
          multiply(rows, first, weight_[0], sum);
        }
        finish(tile, sum, emit);
      }
    }
  }

 private:
  // Of each step a lane has column lane / 4 of the rows 4 (lane % 4) and following.
  __device__ __forceinline__ void load(int tile, int first, float (&weight)[kSteps][4]) const {
    const int lane = threadIdx.x & 31;
    const float* source =
        matrix_ + (first * kStep + (lane & 3) * 4) * dims_ + tile * kColumns + (lane >> 2);
    const bool inside = tile * kColumns < dims_;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        weight[i][j] = inside && (first + i) * kStep < dims_
                           ? load_early(source + (i * kStep + j) * dims_)
                           : 0.f;
      }
    }
  }

  template <typename Rows>
  __device__ __forceinline__ void multiply(Rows rows, int first, const float (&weight)[kSteps][4],
                                           float (&sum)[4]) const {
    const int line = (threadIdx.x & 31) >> 2, quad = threadIdx.x & 3;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if ((first + i) * kStep >= dims_) break;
      const int k = (first + i) * kStep + quad * 4;
      const float4 upper = rows(line, k), lower = rows(line + 8, k);
      uint32_t high[4], low[4], weight_high[2], weight_low[2];
      split_bf16(upper.x, upper.y, high[0], low[0]);
      split_bf16(lower.x, lower.y, high[1], low[1]);
      split_bf16(upper.z, upper.w, high[2], low[2]);
      split_bf16(lower.z, lower.w, high[3], low[3]);
      split_bf16(weight[i][0], weight[i][1], weight_high[0], weight_low[0]);
      split_bf16(weight[i][2], weight[i][3], weight_high[1], weight_low[1]);
      using Pair = HalfPair<true>;
      Pair::mma(sum, high[0], high[1], high[2], high[3], weight_high[0], weight_high[1]);
      Pair::mma(sum, low[0], low[1], low[2], low[3], weight_high[0], weight_high[1]);
      Pair::mma(sum, high[0], high[1], high[2], high[3], weight_low[0], weight_low[1]);
    }
  }

  template <typename Emit>
  __device__ __forceinline__ void finish(int tile, const float (&sum)[4], Emit emit) const {
    const int line = (threadIdx.x & 31) >> 2, column = tile * kColumns + (threadIdx.x & 3) * 2;
    emit(line, column, sum[0], sum[1]);
    emit(line + 8, column, sum[2], sum[3]);
  }

  const float* matrix_;
  int dims_;
  int warp_;
  float weight_[kHeld ? kTiles : 1][kSteps][4];
};

}  // namespace vecinfer
