// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// (x - mean) @ weight for many tokens of one head on bf16 tensor cores, as x @ weight - mean @
// weight. The weight is split into a high and a low bf16, 16 bits of mantissa together; a bf16 x is
// taken as it is, an fp16 one is split as well. Sums are in fp32, and the mean is multiplied with
// the same split weight: the error is at most 2^-16 of the sum of the terms' sizes.
#pragma once

#include "../common/instructions.cuh"
#include "../common/transform.cuh"

namespace vecinfer {

class FullTransform {
  static constexpr int kStep = 16;   // inner dimension of an mma
  static constexpr int kBlocks = 8;  // of 8 columns, summed at a time

 public:
  static constexpr int kTokens = 16;            // of a warp at a time
  static constexpr int kColumns = 8 * kBlocks;  // a part is a multiple of these

  // Shared memory of a part of so many columns.
  static __host__ __device__ int part_bytes(int head_dim, int columns) {
    return (columns + kColumns - 1) / kColumns * kColumns * head_dim * 4;
  }

  // weight [D, D], mean [D] or null: of one head. shared: part_bytes. shift: D floats.
  __device__ __forceinline__ FullTransform(const float* weight, const float* mean, int head_dim,
                                           int columns, uint4* shared, float* shift)
      : weight_(weight),
        mean_(mean),
        head_dim_(head_dim),
        columns_(columns),
        shared_(shared),
        shift_(shift) {}

  // Whether the whole weight stays in shared memory.
  __device__ __forceinline__ bool stays() const { return columns_ >= head_dim_; }

  // Makes what all tokens share; y comes times `scale`. By the whole block, with a barrier to
  // follow.
  __device__ __forceinline__ void prepare(float scale) {
#pragma unroll 1
    for (int first = 0; first < head_dim_; first += columns_) {
      if (first > 0) __syncthreads();
      load_part(first);
      __syncthreads();
      multiply_mean(first, scale);
    }
  }

  // emit(token, column, y[column], y[column + 1]) for a warp's kTokens tokens, rows of `stride`
  // bytes in shared memory. All threads of the block call it together if the weight does not stay.
  template <typename Emit>
  __device__ __forceinline__ void run(bool active, const uint8_t* rows, int stride, bool bf16,
                                      float scale, Emit emit) {
    const int lane = threadIdx.x & 31, line = lane >> 2, quad = lane & 3;
    // Matrices of 8 tokens and 8 elements: tokens 0 and 8 on, then 8 elements on.
    const uint32_t address = shared_address(rows) + (lane & 15) * stride + (lane >> 4) * 16;
#pragma unroll 1
    for (int part = 0; part < head_dim_; part += columns_) {
      if (!stays()) {
        __syncthreads();
        load_part(part);
        __syncthreads();
      }
      if (!active) continue;
      const int end = min(part + columns_, head_dim_);
#pragma unroll 1
      for (int first = part; first < end; first += kColumns) {
        float sum[kBlocks][4] = {};
        multiply(address, (first - part) / 8, bf16, sum);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          const int column = first + block * 8 + quad * 2;
          if (first + block * 8 >= end) break;
          const float2 shift = *reinterpret_cast<const float2*>(shift_ + column);
          emit(line, column, fmaf(sum[block][0], scale, shift.x),
               fmaf(sum[block][1], scale, shift.y));
          emit(line + 8, column, fmaf(sum[block][2], scale, shift.x),
               fmaf(sum[block][3], scale, shift.y));
        }
      }
    }
  }

 private:
  // Columns from `first` on to shared memory as B operands: [8 columns][step][lane] of rows 16 step
  // + 2 quad, + 1, + 8, + 9, their high and their low parts. Past the last column there are zeros.
  __device__ __forceinline__ void load_part(int first) {
    const int steps = head_dim_ / kStep, words = part_bytes(head_dim_, columns_) / 16;
#pragma unroll 4
    for (int word = threadIdx.x; word < words; word += blockDim.x) {
      const int lane = word & 31, block = (word >> 5) / steps, step = (word >> 5) - block * steps;
      const int column = first + block * 8 + (lane >> 2);
      uint4 parts = make_uint4(0, 0, 0, 0);
      if (column < head_dim_) {
        const float* source =
            weight_ + static_cast<int64_t>(step * kStep + (lane & 3) * 2) * head_dim_ + column;
        split_bf16(__ldg(source), __ldg(source + head_dim_), parts.x, parts.z);
        split_bf16(__ldg(source + 8 * head_dim_), __ldg(source + 9 * head_dim_), parts.y, parts.w);
      }
      shared_[word] = parts;
    }
  }

  // The shift of the part's columns: four threads have one, each its rows.
  __device__ __forceinline__ void multiply_mean(int first, float scale) {
    const int steps = head_dim_ / kStep, quad = threadIdx.x & 3;
    const int end = min(first + columns_, head_dim_);
    for (int column = first + threadIdx.x / 4; column < end; column += blockDim.x / 4) {
      const int place = column - first;
      const uint4* parts = shared_ + place / 8 * steps * 32 + place % 8 * 4 + quad;
      float sum = 0.0f;
      for (int step = 0; mean_ != nullptr && step < steps; ++step) {
        const uint4 word = parts[step * 32];
        const float* mean = mean_ + step * kStep + quad * 2;
        const float2 a = HalfPair<true>::unpack(word.x), b = HalfPair<true>::unpack(word.y);
        const float2 c = HalfPair<true>::unpack(word.z), d = HalfPair<true>::unpack(word.w);
        sum = fmaf(__ldg(mean), a.x + c.x, fmaf(__ldg(mean + 1), a.y + c.y, sum));
        sum = fmaf(__ldg(mean + 8), b.x + d.x, fmaf(__ldg(mean + 9), b.y + d.y, sum));
      }
      // A part's columns are a multiple of 8: whole warps are here.
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      if (quad == 0) shift_[column] = -sum * scale;
    }
  }

  // sum += tokens @ weight for kBlocks blocks of the part.
  __device__ __forceinline__ void multiply(uint32_t address, int first_block, bool bf16,
                                           float (&sum)[kBlocks][4]) const {
    const int lane = threadIdx.x & 31, steps = head_dim_ / kStep;
    const uint4* parts = shared_ + first_block * steps * 32 + lane;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      uint32_t high[4], low[4];
      load_matrices(address + step * kStep * 2, high);
      if (!bf16) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 x = unpack_pair(high[i], false);
          split_bf16(x.x, x.y, high[i], low[i]);
        }
      }
      uint4 w[kBlocks];
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) w[block] = parts[(block * steps + step) * 32];
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
        multiply_add(sum[block], high, w[block].x, w[block].y);
      if (!bf16) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
          multiply_add(sum[block], low, w[block].x, w[block].y);
      }
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
        multiply_add(sum[block], high, w[block].z, w[block].w);
    }
  }

  static __device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4],
                                                      uint32_t b0, uint32_t b1) {
    HalfPair<true>::mma(c, a[0], a[1], a[2], a[3], b0, b1);
  }

  const float* weight_;
  const float* mean_;
  int head_dim_;
  int columns_;
  uint4* shared_;
  float* shift_;
};

}  // namespace vecinfer
