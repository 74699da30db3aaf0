// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The transform in front of the quantizer and its inverse, for a few tokens of one head. Mirror of
// vecinfer_hf/quantization/transforms.py. Diagonal transforms stay in registers, 8 elements per
// lane; full matrices go through shared memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "hadamard.cuh"
#include "params.h"

namespace vecinfer {

constexpr int kLane = kHadamardLane;

// How the lanes of a warp share tokens: head_dim / 8 lanes per token, so 3 tokens for 80 elements
// and 1 for 256.
struct LaneMap {
  int tokens;     // per warp
  int token;      // of this lane; lanes past the last token have token >= tokens
  int first_dim;  // of this lane

  __device__ explicit LaneMap(int head_dim) {
    const int lane = threadIdx.x & 31;
    const int lanes = head_dim / kLane;  // 8, 10, 12, 16 or 32
    tokens = lanes == 8 ? 4 : lanes == 10 ? 3 : lanes == 32 ? 1 : 2;
    token = 0;
    for (int first = lanes; first <= lane; first += lanes) ++token;
    first_dim = (lane - token * lanes) * kLane;
  }
};

__device__ __forceinline__ float state_to_float(uint16_t bits, bool bf16) {
  return bf16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
              : __half2float(__ushort_as_half(bits));
}

// 8 consecutive elements of one token, as they are stored.
__device__ __forceinline__ uint4 load_stored(const uint16_t* source, bool aligned) {
  if (aligned) return *reinterpret_cast<const uint4*>(source);
  // A loop, so that this takes no room in the way of the other.
  uint4 words = make_uint4(0, 0, 0, 0);
#pragma unroll 1
  for (int i = 0; i < kLane; ++i) {
    words.x = __funnelshift_r(words.x, words.y, 16);
    words.y = __funnelshift_r(words.y, words.z, 16);
    words.z = __funnelshift_r(words.z, words.w, 16);
    words.w = __funnelshift_r(words.w, source[i], 16);
  }
  return words;
}

// Two elements.
__device__ __forceinline__ float2 unpack_pair(uint32_t word, bool bf16) {
  if (bf16) {
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
  }
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}

__device__ __forceinline__ void unpack_states(const uint4& stored, bool bf16, float (&x)[kLane]) {
  const uint32_t word[4] = {stored.x, stored.y, stored.z, stored.w};
  if (bf16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(word[i] << 16);
      x[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word[i]));
      x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
  }
}

__device__ __forceinline__ void load_states(const uint16_t* source, bool aligned, bool bf16,
                                            float (&x)[kLane]) {
  unpack_states(load_stored(source, aligned), bf16, x);
}

// 8 consecutive floats that start on 16 bytes, or a constant where there are none.
__device__ __forceinline__ void load_weights(const float* source, float missing,
                                             float (&x)[kLane]) {
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

// x -> x * factor + shift, a transform's part before H: its mean, its weight and a constant of the
// caller.
struct Affine {
  float factor[kLane], shift[kLane];

  // place: head * head_dim + first_dim of this lane.
  __device__ __forceinline__ Affine(const Transform& transform, int64_t place, float scale,
                                    bool active) {
    const bool weighted = active && transform.kind == TransformKind::kDiagonal;
    load_weights(weighted ? transform.weight + place : nullptr, 1.0f, factor);
    load_weights(active && transform.mean ? transform.mean + place : nullptr, 0.0f, shift);
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      factor[i] *= scale;
      shift[i] *= -factor[i];
    }
  }

  __device__ __forceinline__ void apply(float (&x)[kLane]) const {
#pragma unroll
    for (int i = 0; i < kLane; ++i) x[i] = fmaf(x[i], factor[i], shift[i]);
  }
};

// emit(token, column, (rows @ weight)[token][column]) for rows [tokens][head_dim] in shared memory,
// whose storage is a multiple of 8 rows. All threads of the block call it.
template <typename Emit>
__device__ __forceinline__ void multiply_rows(const float* rows, int tokens, int head_dim,
                                              const float* weight, bool transposed, Emit emit) {
  constexpr int kRows = 8;
  const int step = transposed ? 1 : head_dim;
  for (int column = threadIdx.x; column < head_dim; column += blockDim.x) {
    const float* entry = weight + (transposed ? static_cast<int64_t>(column) * head_dim : column);
    for (int first = 0; first < tokens; first += kRows) {
      float sum[kRows] = {};
#pragma unroll 4
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
}

}  // namespace vecinfer
