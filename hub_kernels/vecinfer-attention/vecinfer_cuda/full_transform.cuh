// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// (x - mean) @ weight for many tokens of one head on bf16 tensor cores. Both operands are split
// into a high and a low bf16, 16 bits of mantissa together, and three of the four products are
// summed in fp32: the error of a sum is at most 2^-16 of the sum of its terms' sizes. The weight
// passes through shared memory in parts of some columns.
#pragma once

#include "instructions.cuh"
#include "transform.cuh"

namespace vecinfer {

class FullTransform {
  static constexpr int kStep = 16;     // inner dimension of an mma
  static constexpr int kSteps = 4;     // of a token's elements in registers at a time
  static constexpr int kColumns = 64;  // of the largest part
  static constexpr int kPartBytes = 32768;

 public:
  static constexpr int kTokens = 16;  // of a warp at a time

  // Columns of a part, and the shared memory it takes.
  static __host__ __device__ int part_columns(int head_dim) {
    return kPartBytes / (4 * head_dim) < kColumns ? 32 : kColumns;
  }
  static __host__ __device__ int part_bytes(int head_dim) {
    return part_columns(head_dim) * head_dim * 4;
  }

  // weight [D, D], mean [D] or null: of one head. shared: part_bytes.
  __device__ __forceinline__ FullTransform(const float* weight, const float* mean, int head_dim,
                                           uint4* shared)
      : weight_(weight), mean_(mean), head_dim_(head_dim), shared_(shared) {}

  // emit(token, column, y[column], y[column + 1]) for kTokens tokens of each warp; row(token) is a
  // token's state, or null where there is none. All threads of the block call it together, whether
  // their warp has tokens (`active`) or not.
  template <typename Row, typename Emit>
  __device__ __forceinline__ void run(bool active, bool aligned, bool bf16, Row row, Emit emit) {
    const int lane = threadIdx.x & 31, line = lane >> 2, quad = lane & 3;
    const int columns = part_columns(head_dim_);
#pragma unroll 1
    for (int first = 0; first < head_dim_; first += columns) {
      const int blocks = (min(first + columns, head_dim_) - first) / 8;
      __syncthreads();
      load_part(first, blocks);
      __syncthreads();
      if (!active) continue;
      float sum[kColumns / 8][4] = {};
#pragma unroll 1
      for (int step = 0; step < head_dim_ / kStep; step += kSteps) {
        multiply(row(line), row(line + 8), step, blocks, aligned, bf16, sum);
      }
#pragma unroll
      for (int block = 0; block < kColumns / 8; ++block) {
        if (block == blocks) break;
        const int column = first + block * 8 + quad * 2;
        emit(line, column, sum[block][0], sum[block][1]);
        emit(line + 8, column, sum[block][2], sum[block][3]);
      }
    }
  }

 private:
  // 8 * blocks columns to shared memory as B operands: [8 columns][step][lane] of 4 rows 16 step +
  // 4 quad.., their high and their low parts.
  __device__ __forceinline__ void load_part(int first, int blocks) {
    const int steps = head_dim_ / kStep, words = blocks * steps * 32;
#pragma unroll 4
    for (int word = threadIdx.x; word < words; word += blockDim.x) {
      const int lane = word & 31, block = (word >> 5) / steps, step = (word >> 5) - block * steps;
      const float* source = weight_ +
                            static_cast<int64_t>(step * kStep + (lane & 3) * 4) * head_dim_ +
                            first + block * 8 + (lane >> 2);
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = __ldg(source + i * head_dim_);
      uint4 parts;
      split_bf16(x[0], x[1], parts.x, parts.z);
      split_bf16(x[2], x[3], parts.y, parts.w);
      shared_[word] = parts;
    }
  }

  // sum += tokens @ weight over kSteps steps from `first` on, for the part's columns.
  __device__ __forceinline__ void multiply(const uint16_t* upper, const uint16_t* lower, int first,
                                           int blocks, bool aligned, bool bf16,
                                           float (&sum)[kColumns / 8][4]) const {
    const int lane = threadIdx.x & 31, quad = lane & 3, steps = head_dim_ / kStep;
    // Of each step a lane has elements 4 quad.. of both tokens.
    uint2 stored[kSteps][2];
    float4 mean[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int place = (first + i) * kStep + quad * 4;
      const bool inside = first + i < steps;
      stored[i][0] = load_four(inside ? upper : nullptr, place, aligned);
      stored[i][1] = load_four(inside ? lower : nullptr, place, aligned);
      mean[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (mean_ != nullptr && inside) {
        mean[i] = __ldg(reinterpret_cast<const float4*>(mean_ + place));
      }
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if (first + i >= steps) break;
      uint32_t high[4], low[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 x = unpack_pair(stored[i][half].x, bf16);
        const float2 y = unpack_pair(stored[i][half].y, bf16);
        split_bf16(x.x - mean[i].x, x.y - mean[i].y, high[half], low[half]);
        split_bf16(y.x - mean[i].z, y.y - mean[i].w, high[2 + half], low[2 + half]);
      }
#pragma unroll
      for (int block = 0; block < kColumns / 8; ++block) {
        if (block == blocks) break;
        const uint4 w = shared_[(block * steps + first + i) * 32 + lane];
        float (&to)[4] = sum[block];
        HalfPair<true>::mma(to, high[0], high[1], high[2], high[3], w.x, w.y);
        HalfPair<true>::mma(to, low[0], low[1], low[2], low[3], w.x, w.y);
        HalfPair<true>::mma(to, high[0], high[1], high[2], high[3], w.z, w.w);
      }
    }
  }

  static __device__ __forceinline__ uint2 load_four(const uint16_t* row, int place, bool aligned) {
    if (row == nullptr) return make_uint2(0, 0);
    row += place;
    if (aligned) return *reinterpret_cast<const uint2*>(row);
    return make_uint2(row[0] | static_cast<uint32_t>(row[1]) << 16,
                      row[2] | static_cast<uint32_t>(row[3]) << 16);
  }

  const float* weight_;
  const float* mean_;
  int head_dim_;
  uint4* shared_;
};

}  // namespace vecinfer
