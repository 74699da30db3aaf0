// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// append: a few new tokens per row. One block does one side of one head of one row: it quantizes the tokens that leave the
// ring, then puts the new ones in their place. All blocks read the old lengths; a second, dependent kernel advances them.
#pragma once

#include "codes.cuh"
#include "nearest.cuh"
#include "params.h"
#include "transform.cuh"

namespace vecinfer {

constexpr int kAppendThreads = 256;
constexpr int kAppendTokens = 16;
constexpr int kAppendTiles = 4;  // centroids of one warp: 32

struct AppendParams {
  StatesView states[2];  // keys, values: [B, Hkv, T, D], T <= 16
  StatesView sinks[2];   // [B, Hkv, S, D]
  StatesView window[2];  // [B, Hkv, C, D]
  Side sides[2];
  CodesView codes;
  int* lengths;            // [B]
  int* quantized_lengths;  // [B]
  int batch_size;
  int num_tokens;        // T
  int num_sinks;         // S
  int window_capacity;   // C
  int residual_length;   // R
  int head_dim;
  bool bf16;
};

// What an append does to one row.
struct RowUpdate {
  int length;     // before
  int quantized;  // before
  int leaving;    // tokens that become codes

  __device__ RowUpdate(const AppendParams& p, int batch)
      : length(p.lengths[batch]), quantized(p.quantized_lengths[batch]) {
    const int after_sinks = max(length + p.num_tokens - p.num_sinks, 0);
    leaving = max(after_sinks - p.residual_length - quantized, 0);
  }
};

// Shared memory of one block.
struct AppendLayout {
  int full_bytes, fixed_bytes, keys_bytes;

  __host__ __device__ AppendLayout(const Side& side, int head_dim)
      : full_bytes(side.transform.kind == TransformKind::kFull ? kAppendTokens * head_dim * 4 : 0),
        fixed_bytes(kAppendTokens * head_dim * 2),
        keys_bytes(kAppendTokens * (head_dim / side.format.subvector_dim) * 4) {}

  __host__ __device__ int total() const { return full_bytes + fixed_bytes + keys_bytes; }
};

// The leaving tokens, transformed, in fixed point. Rows up to the next multiple of 8 tokens are defined.
template <int kDim>
__device__ __forceinline__ void transform_leaving(const AppendParams& p, const Side& side, const StatesView& window,
                                                  const uint16_t* ring, const RowUpdate& update, int head,
                                                  float* full, __half* fixed) {
  const LaneMap map(p.head_dim);
  const Transform& transform = side.transform;
  const float steps = FixedPoint<kDim>::kSteps / side.centroid_scale[head];
  const bool is_full = transform.kind == TransformKind::kFull;
  const bool is_diagonal = transform.kind == TransformKind::kDiagonal;
  const bool active = map.token < map.tokens;
  const int64_t offset = static_cast<int64_t>(head) * p.head_dim + map.first_dim;
  const int defined = (update.leaving + 7) / 8 * 8;
  const int warp = threadIdx.x / 32;
  for (int base = warp * map.tokens; base < defined; base += kAppendThreads / 32 * map.tokens) {
    const int index = base + map.token;
    const int slot = (update.quantized + index) % p.residual_length;
    const bool valid = active && index < update.leaving && slot < p.window_capacity;
    float x[kLane] = {};
    if (valid) {
      float mean[kLane], weight[kLane];
      load_weights(transform.mean ? transform.mean + offset : nullptr, 0.0f, mean);
      load_weights(is_diagonal ? transform.weight + offset : nullptr, 1.0f, weight);
      load_states(ring + slot * window.token_stride + map.first_dim, window.aligned, p.bf16, x);
#pragma unroll
      for (int i = 0; i < kLane; ++i) x[i] = (x[i] - mean[i]) * weight[i];
    }
    if (is_diagonal) hadamard_transform(x, hadamard_block(p.head_dim));
    if (!active || index >= defined) continue;
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const int place = index * p.head_dim + map.first_dim + i;
      if (is_full) {
        full[place] = x[i];
      } else {
        fixed[place] = to_fixed(x[i] * steps);
      }
    }
  }
  __syncthreads();
  if (is_full) {
    const float* matrix = transform.weight + static_cast<int64_t>(head) * p.head_dim * p.head_dim;
    multiply_rows(full, defined, p.head_dim, matrix, transform.transposed, [&](int token, int column, float value) {
      fixed[token * p.head_dim + column] = to_fixed(value * steps);
    });
    __syncthreads();
  }
}

// Codes of the leaving tokens. The warps share the codebook, not the tokens: there are few of those. `fragments` holds
// this warp's part of the first 256 centroids.
template <int kDim>
__device__ __forceinline__ void quantize_leaving(const AppendParams& p, const Side& side, const StatesView& window,
                                                 const RowUpdate& update, int head, int batch,
                                                 CentroidFragments<kDim, kAppendTiles>& fragments, uint8_t* shared) {
  constexpr int kTiles = kAppendTiles, kPass = 8 * kTiles * (kAppendThreads / 32);
  const AppendLayout layout(side, p.head_dim);
  float* full = reinterpret_cast<float*>(shared);
  __half* fixed = reinterpret_cast<__half*>(shared + layout.full_bytes);
  int* keys = reinterpret_cast<int*>(shared + layout.full_bytes + layout.fixed_bytes);
  const CodeFormat& format = side.format;
  const int size = 1 << format.bits_per_code;
  const int high_bits = format.bits_per_code - 8;
  const int subvectors = p.head_dim / kDim;
  const int rows = update.leaving * subvectors;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int padded = padded_subvectors(format, p.head_dim, side.is_value);
  const PlaneOrder order(padded, side.is_value);
  const int plane = plane_bytes(format, p.head_dim, side.is_value);
  const int8_t* centroids = side.centroids + static_cast<int64_t>(head) * format.num_codes * size * kDim;
  uint8_t* codes = p.codes.data + batch * p.codes.batch_stride + head * p.codes.head_stride + side.tile_offset;
  const uint16_t* ring =
      static_cast<const uint16_t*>(window.data) + batch * window.batch_stride + head * window.head_stride;

  transform_leaving<kDim>(p, side, window, ring, update, head, full, fixed);
  for (int level = 0; level < format.num_codes; ++level) {
    const int8_t* table = centroids + level * size * kDim;
    for (int row = threadIdx.x; row < rows; row += kAppendThreads) keys[row] = 0;
    __syncthreads();
    for (int base = warp * 8 * kTiles; base < size; base += kPass) {
      if (level > 0 || base >= kPass) fragments.load(table + base * kDim);
      for (int first = 0; first < rows; first += 16) {
        RowFragment<kDim> a;
        a.load(fixed + first * kDim);
        const int2 key = nearest16(a, fragments, base);
        const int row = first + lane / 4 + (lane & 1) * 8;
        if ((lane & 3) < 2 && row < rows) atomicMax(&keys[row], lane & 1 ? key.y : key.x);
      }
    }
    __syncthreads();
    for (int row = warp; row < rows; row += kAppendThreads / 32) {
      if (keys[row] < kNoScore || is_far<kDim>(fixed + row * kDim)) {
        const int key = exact_row<kDim>(fixed + row * kDim, table, size);
        __syncwarp();
        if (lane == 0) keys[row] = key;
      }
    }
    __syncthreads();
    for (int row = threadIdx.x; row < rows; row += kAppendThreads) {
      const int code = key_to_code(keys[row], format.bits_per_code);
      const int index = row / subvectors;
      const int slot = update.quantized + index;
      if (slot / kTile < p.codes.num_tiles) {
        uint8_t* target = codes + static_cast<int64_t>(slot / kTile) * p.codes.bytes_per_tile + level * plane;
        const int position = order.position(slot % kTile, row - index * subvectors);
        target[position] = static_cast<uint8_t>(code);
        if (high_bits) {
          // Several codes share a byte: change only this one's bits.
          const int byte = kTile * padded + high_byte(position, high_bits);
          const int shift = byte % 4 * 8 + high_shift(position, high_bits);
          unsigned* word = reinterpret_cast<unsigned*>(target + byte / 4 * 4);
          atomicAnd(word, ~(((1u << high_bits) - 1) << shift));
          atomicOr(word, static_cast<unsigned>(code >> 8) << shift);
        }
      }
      if (level + 1 < format.num_codes) {
        const Centroid<kDim> centroid(table + code * kDim);
#pragma unroll
        for (int i = 0; i < kDim; ++i) {
          const float rest = __half2float(fixed[row * kDim + i]) - FixedPoint<kDim>::kSteps * centroid.value[i];
          fixed[row * kDim + i] = to_fixed(rest);
        }
      }
    }
    __syncthreads();
  }
}

// The new tokens of one block, an element of each of 256 at a time: read early, because they are there already; written
// last, because the tokens that leave the ring must be read before.
struct NewTokens {
  static constexpr int kParts = kAppendTokens * 256 / kAppendThreads;
  uint16_t part[kParts];

  __device__ __forceinline__ NewTokens(const AppendParams& p, int side, int head, int batch) {
    const StatesView& view = p.states[side];
    const uint16_t* from = static_cast<const uint16_t*>(view.data) + batch * view.batch_stride + head * view.head_stride;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int element = i * kAppendThreads + threadIdx.x;
      if (element >= p.num_tokens * p.head_dim) break;
      const int token = element / p.head_dim;
      part[i] = from[token * view.token_stride + element - token * p.head_dim];
    }
  }

  // To their sink or ring places.
  __device__ __forceinline__ void store(const AppendParams& p, const RowUpdate& update, int side, int head,
                                        int batch) const {
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int element = i * kAppendThreads + threadIdx.x;
      if (element >= p.num_tokens * p.head_dim) break;
      const int token = element / p.head_dim;
      const int index = update.length + token;
      const bool sink = index < p.num_sinks;
      const int place = sink ? index : (index - p.num_sinks) % p.residual_length;
      const StatesView& view = sink ? p.sinks[side] : p.window[side];
      if (!sink && place >= p.window_capacity) continue;
      uint16_t* to = static_cast<uint16_t*>(view.data) + batch * view.batch_stride + head * view.head_stride;
      to[place * view.token_stride + element - token * p.head_dim] = part[i];
    }
  }
};

template <int kDim>
__device__ __forceinline__ void append_side(const AppendParams& p, uint8_t* shared) {
  const int head = blockIdx.x, batch = blockIdx.y, side_index = blockIdx.z;
  const Side& side = p.sides[side_index];
  // What does not depend on the lengths is asked for before them.
  CentroidFragments<kDim, kAppendTiles> fragments;
  const int64_t first = static_cast<int64_t>(head) * side.format.num_codes << side.format.bits_per_code;
  fragments.load(side.centroids + (first + threadIdx.x / 32 * 8 * kAppendTiles) * kDim);
  const NewTokens tokens(p, side_index, head, batch);
  const RowUpdate update(p, batch);
  if (update.leaving > 0) {
    quantize_leaving<kDim>(p, side, p.window[side_index], update, head, batch, fragments, shared);
  }
  tokens.store(p, update, side_index, head, batch);
}

__global__ void __launch_bounds__(kAppendThreads) append_kernel(const __grid_constant__ AppendParams p) {
  extern __shared__ __align__(16) uint8_t shared[];
#if __CUDA_ARCH__ >= 900
  // The lengths' kernel may be set up now; it waits for this one's memory before it does anything.
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  switch (p.sides[blockIdx.z].format.subvector_dim) {
    case 2:
      append_side<2>(p, shared);
      break;
    case 4:
      append_side<4>(p, shared);
      break;
    default:
      append_side<8>(p, shared);
  }
}

__global__ void advance_lengths_kernel(const __grid_constant__ AppendParams p) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  const int batch = blockIdx.x * blockDim.x + threadIdx.x;
  if (batch >= p.batch_size) return;
  const RowUpdate update(p, batch);
  p.quantized_lengths[batch] = update.quantized + update.leaving;
  p.lengths[batch] = update.length + p.num_tokens;
}

}  // namespace vecinfer
