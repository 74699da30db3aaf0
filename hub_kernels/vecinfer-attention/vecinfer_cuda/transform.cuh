// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The transform in front of the quantizer and its inverse, for a few tokens of one head. Mirror of
// vecinfer_hf/transforms.py. Diagonal transforms stay in registers, 8 elements per lane; full matrices go through
// shared memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "hadamard.cuh"
#include "params.h"

namespace vecinfer {

constexpr int kLane = kHadamardLane;

// How the lanes of a warp share tokens: head_dim / 8 lanes per token, so 3 tokens for 80 elements and 1 for 256.
struct LaneMap {
  int lanes_per_token;
  int tokens;      // per warp
  int token;       // of this lane; lanes past the last token have token >= tokens
  int first_dim;   // of this lane

  __device__ explicit LaneMap(int head_dim) : lanes_per_token(head_dim / kLane) {
    const int lane = threadIdx.x & 31;
    tokens = 32 / lanes_per_token;
    token = lane / lanes_per_token;
    first_dim = (lane - token * lanes_per_token) * kLane;
  }
};

__device__ __forceinline__ float state_to_float(uint16_t bits, bool bf16) {
  return bf16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16) : __half2float(__ushort_as_half(bits));
}

// 8 consecutive elements of one token.
__device__ __forceinline__ void load_states(const uint16_t* source, bool aligned, bool bf16, float (&x)[kLane]) {
  if (aligned) {
    const uint4 words = *reinterpret_cast<const uint4*>(source);
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      x[i] = state_to_float(static_cast<uint16_t>(word[i / 2] >> (i % 2 * 16)), bf16);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kLane; ++i) x[i] = state_to_float(source[i], bf16);
  }
}

// 8 consecutive floats that start on 16 bytes, or a constant where there are none.
__device__ __forceinline__ void load_weights(const float* source, float missing, float (&x)[kLane]) {
  if (source == nullptr) {
#pragma unroll
    for (int i = 0; i < kLane; ++i) x[i] = missing;
    return;
  }
#pragma unroll
  for (int i = 0; i < kLane; i += 4) {
    const float4 part = __ldg(reinterpret_cast<const float4*>(source + i));
    x[i] = part.x, x[i + 1] = part.y, x[i + 2] = part.z, x[i + 3] = part.w;
  }
}

// emit(token, column, (rows @ weight)[token][column]) for rows [tokens][head_dim] in shared memory, whose storage is a
// multiple of 8 rows. All threads of the block call it; the block has at least head_dim threads.
template <typename Emit>
__device__ __forceinline__ void multiply_rows(const float* rows, int tokens, int head_dim, const float* weight,
                                              bool transposed, Emit emit) {
  constexpr int kRows = 8;
  const int groups = blockDim.x / head_dim;
  const int group = threadIdx.x / head_dim;
  const int column = threadIdx.x - group * head_dim;
  if (group >= groups) return;
  const float* entry = weight + (transposed ? static_cast<int64_t>(column) * head_dim : column);
  const int step = transposed ? 1 : head_dim;
  for (int first = group * kRows; first < tokens; first += groups * kRows) {
    float sum[kRows] = {};
#pragma unroll 2
    for (int i = 0; i < head_dim; i += 4) {
      float w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) w[j] = __ldg(entry + (i + j) * step);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const float4 x = *reinterpret_cast<const float4*>(rows + (first + row) * head_dim + i);
        sum[row] = fmaf(x.x, w[0], fmaf(x.y, w[1], fmaf(x.z, w[2], fmaf(x.w, w[3], sum[row]))));
      }
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (first + row < tokens) emit(first + row, column, sum[row]);
    }
  }
}

}  // namespace vecinfer
