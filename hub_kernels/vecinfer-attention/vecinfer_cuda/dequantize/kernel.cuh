// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// dequantize: a range of code slots back to keys and values in the model's own space. A block takes
// one tile of one side of one head.
#pragma once

#include "../common/packing.cuh"
#include "../common/params.h"
#include "../common/transform.cuh"

namespace vecinfer {

enum class OutputType : int { kFloat, kHalf, kBfloat16 };

struct DequantizeParams {
  Side sides[2];  // with the inverse transforms
  PlaneOrder orders[2];
  FastDivider by_subvectors[2];  // of one token
  CodesView codes;
  void* outputs[2];  // [B, Hkv, length, D], contiguous
  OutputType type;
  int start;   // first code slot
  int length;  // code slots
  int num_heads;
  int head_dim;
};

constexpr int kDequantizeThreads = 256;

__device__ __forceinline__ void store_output(void* output, OutputType type, int64_t index,
                                             float value) {
  if (type == OutputType::kFloat) {
    static_cast<float*>(output)[index] = value;
  } else if (type == OutputType::kHalf) {
    static_cast<__half*>(output)[index] = __float2half_rn(value);
  } else {
    static_cast<__nv_bfloat16*>(output)[index] = __float2bfloat16_rn(value);
  }
}

__device__ __forceinline__ int read_code(const uint8_t* plane, int positions, int high_bits,
                                         int position) {
  int code = plane[position];
  if (high_bits) {
    const int byte = plane[positions + high_byte(position, high_bits)];
    code |= (byte >> high_shift(position, high_bits) & ((1 << high_bits) - 1)) << 8;
  }
  return code;
}

__global__ void __launch_bounds__(kDequantizeThreads)
    dequantize_kernel(const __grid_constant__ DequantizeParams p) {
  extern __shared__ __align__(16) float rows[];  // [32][D], transformed space
  const int side_index = blockIdx.y / p.num_heads;
  const int head = blockIdx.y % p.num_heads;
  const int64_t batch = blockIdx.z;
  const int tile = p.start / kTile + blockIdx.x;
  const Side& side = p.sides[side_index];
  const CodeFormat& format = side.format;
  const int dim = format.subvector_dim;
  const int subvectors = p.head_dim / dim;
  const int high_bits = format.bits_per_code - 8;
  const int padded = padded_subvectors(format, p.head_dim, side.is_value);
  const int plane = plane_bytes(format, p.head_dim, side.is_value);
  const PlaneOrder& order = p.orders[side_index];
  const FastDivider by_token = p.by_subvectors[side_index];
  const uint8_t* planes =
      code_tile(p.codes, static_cast<int>(batch), head, tile) + side.tile_offset;
  const int size = 1 << format.bits_per_code;
  const int8_t* centroids =
      side.centroids + static_cast<int64_t>(head) * format.num_codes * size * dim;
  const float scale = side.centroid_scale[head];
  const int first_token = max(p.start - tile * kTile, 0);
  const int end_token = min(p.start + p.length - tile * kTile, kTile);

  for (int row = threadIdx.x; row < kTile * subvectors; row += kDequantizeThreads) {
    const int token = by_token.divide(row);
    const bool inside = token >= first_token && token < end_token;
    const int position = order.position(token, row - token * subvectors);
    int sum[8] = {};
    for (int level = 0; inside && level < format.num_codes; ++level) {
      const int code = read_code(planes + level * plane, kTile * padded, high_bits, position);
      const int8_t* centroid = centroids + (level * size + code) * dim;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (i < dim) sum[i] += centroid[i];
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < dim) rows[row * dim + i] = sum[i] * scale;
    }
  }
  __syncthreads();

  const Transform& transform = side.transform;
  const int64_t first_output =
      ((batch * p.num_heads + head) * p.length + tile * kTile - p.start) * p.head_dim;
  void* output = p.outputs[side_index];
  const float* mean =
      transform.mean ? transform.mean + static_cast<int64_t>(head) * p.head_dim : nullptr;
  if (transform.kind == TransformKind::kFull) {
    const float* matrix = transform.weight + static_cast<int64_t>(head) * p.head_dim * p.head_dim;
    multiply_rows(rows, kTile, p.head_dim, matrix, transform.transposed,
                  [&](int token, int column, float value) {
                    if (token < first_token || token >= end_token) return;
                    store_output(output, p.type, first_output + token * p.head_dim + column,
                                 value + (mean ? mean[column] : 0.0f));
                  });
    return;
  }
  const LaneMap map(p.head_dim);
  const bool active = map.token < map.tokens;
  const bool is_diagonal = transform.kind == TransformKind::kDiagonal;
  float offset[kLane], weight[kLane];
  load_weights(active && mean ? mean + map.first_dim : nullptr, 0.0f, offset);
  load_weights(active && is_diagonal
                   ? transform.weight + static_cast<int64_t>(head) * p.head_dim + map.first_dim
                   : nullptr,
               1.0f, weight);
  for (int base = threadIdx.x / 32 * map.tokens; base < kTile;
       base += kDequantizeThreads / 32 * map.tokens) {
    const int token = base + map.token;
    const bool mine = active && token >= first_token && token < end_token;
    float x[kLane] = {};
    if (mine) {
#pragma unroll
      for (int i = 0; i < kLane; ++i) x[i] = rows[token * p.head_dim + map.first_dim + i];
    }
    if (is_diagonal) hadamard_transform(x, hadamard_block(p.head_dim));
    if (!mine) continue;
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      store_output(output, p.type, first_output + token * p.head_dim + map.first_dim + i,
                   fmaf(x[i], weight[i], offset[i]));
    }
  }
}

}  // namespace vecinfer
