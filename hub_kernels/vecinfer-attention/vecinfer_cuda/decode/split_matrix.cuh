// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// 4 rows times a full matrix by one block, in fp32. Fetching the matrix is what takes time, so all
// warps fetch, as early as they can: each has some of its rows, multiplies them with its part of
// the inner dimension, and the warps' sums are added up through shared memory.
#pragma once

#include "../common/instructions.cuh"
#include "params.h"

namespace vecinfer {

constexpr int kMatrixWarps = 16;

// kLaneDims: D / 32, rounded up.
template <int kLaneDims>
class SplitMatrix {
  static constexpr int kWidth = 32 * kLaneDims;
  static constexpr bool kStaged = kWidth <= 128;  // larger ones do not fit into shared memory

 public:
  static constexpr int kPartialFloats = kMatrixWarps * kRowTile * kWidth;
  static constexpr int kStagedFloats = kStaged ? kWidth * kWidth : 0;

  // Starts to fetch the [dims, dims] matrix of 16-byte words to kStagedFloats of shared memory.
  // warp: of kMatrixWarps.
  __device__ __forceinline__ SplitMatrix(const float* matrix, int dims, int warp, float* staged)
      : dims_(dims), warp_(warp) {
    const int per_warp = (dims + kMatrixWarps - 1) / kMatrixWarps;
    first_ = min(warp * per_warp, dims);
    count_ = min(per_warp, dims - first_);
    rows_ = matrix + first_ * dims;
    if constexpr (kStaged) {
      float* target = staged + first_ * dims;
      const uint32_t address = shared_address(target);
      for (int i = (threadIdx.x & 31) * 4; i < count_ * dims; i += 128) {
        copy_async<16>(address + i * 4, rows_ + i);
      }
      commit_copies();
      rows_ = target;
    }
  }

  // This warp's part of the product, to `partial`; a barrier must follow. rows: 4 in shared memory.
  __device__ __forceinline__ void multiply(const float* rows, int row_stride,
                                           float* partial) const {
    const int lane = threadIdx.x & 31;
    if constexpr (kStaged) {
      wait_copies<0>();
      __syncwarp();
    }
    float sum[kRowTile][kLaneDims] = {};
#pragma unroll 4
    for (int i = 0; i < count_; ++i) {
      float weight[kLaneDims];
#pragma unroll
      for (int k = 0; k < kLaneDims; ++k) {
        weight[k] = rows_[i * dims_ + min(lane + 32 * k, dims_ - 1)];
      }
#pragma unroll
      for (int row = 0; row < kRowTile; ++row) {
        const float x = rows[row * row_stride + first_ + i];
#pragma unroll
        for (int k = 0; k < kLaneDims; ++k) sum[row][k] = fmaf(x, weight[k], sum[row][k]);
      }
    }
#pragma unroll
    for (int row = 0; row < kRowTile; ++row) {
#pragma unroll
      for (int k = 0; k < kLaneDims; ++k) {
        partial[(warp_ * kRowTile + row) * kWidth + lane + 32 * k] = sum[row][k];
      }
    }
  }

  // An element of the product.
  static __device__ __forceinline__ float total(const float* partial, int row, int column) {
    float sum = 0.f;
#pragma unroll
    for (int warp = 0; warp < kMatrixWarps; ++warp) {
      sum += partial[(warp * kRowTile + row) * kWidth + column];
    }
    return sum;
  }

 private:
  const float* rows_;  // this warp's
  int dims_;
  int warp_;
  int first_;
  int count_;
};

}  // namespace vecinfer
