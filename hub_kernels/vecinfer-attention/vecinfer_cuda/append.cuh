// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// append: a few new tokens per row. One block does one side of one head of one row: it quantizes
// the tokens that leave the ring, then puts the new ones in their place. All blocks read the old
// lengths; a second, dependent kernel advances them.
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
  PlaneOrder orders[2];
  FastDivider by_subvectors[2];  // of one token
  FastDivider by_head_dim;
  CodesView codes;
  int* lengths;            // [B]
  int* quantized_lengths;  // [B]
  int batch_size;
  int num_tokens;       // T
  int num_sinks;        // S
  int window_capacity;  // C
  int residual_length;  // R
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
      : full_bytes(side.transform.kind == TransformKind::kFull
                       ? (kAppendTokens + kAppendThreads / 32) * head_dim * 4
                       : 0),
        fixed_bytes(kAppendTokens * head_dim * 2),
        keys_bytes(kAppendTokens * (head_dim / side.format.subvector_dim) * 4) {}

  __host__ __device__ int total() const { return full_bytes + fixed_bytes + keys_bytes; }
};

// emit(token, column, (rows @ weight)[token][column]) for few rows [tokens][head_dim]: each warp
// takes a part of the inner dimension, because the weight, not the arithmetic, is what takes time.
// `partial` is [warps][head_dim].
template <typename Emit>
__device__ __forceinline__ void multiply_few_rows(const float* rows, int tokens, int head_dim,
                                                  const float* weight, float* partial, Emit emit) {
  constexpr int kWarps = kAppendThreads / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int inner = head_dim / kWarps;
  for (int token = 0; token < tokens; ++token) {
    const float* x = rows + token * head_dim + warp * inner;
    for (int column = lane * 4; column < head_dim; column += 128) {
      float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
      for (int i = 0; i < inner; ++i) {
        const float4 w =
            __ldg(reinterpret_cast<const float4*>(weight + (warp * inner + i) * head_dim + column));
        sum.x = fmaf(x[i], w.x, sum.x), sum.y = fmaf(x[i], w.y, sum.y);
        sum.z = fmaf(x[i], w.z, sum.z), sum.w = fmaf(x[i], w.w, sum.w);
      }
      *reinterpret_cast<float4*>(partial + warp * head_dim + column) = sum;
    }
    __syncthreads();
    for (int column = threadIdx.x; column < head_dim; column += kAppendThreads) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) sum += partial[i * head_dim + column];
      emit(token, column, sum);
    }
    __syncthreads();
  }
}

// The leaving tokens, transformed, in fixed point. Ends with a barrier.
template <int kDim>
__device__ __forceinline__ void transform_leaving(const AppendParams& p, const Side& side,
                                                  const StatesView& window, const RowUpdate& update,
                                                  int head, int batch, float* full, __half* fixed) {
  const uint16_t* ring = static_cast<const uint16_t*>(window.data) + batch * window.batch_stride +
                         head * window.head_stride;
  const LaneMap map(p.head_dim);
  const Transform& transform = side.transform;
  const float steps = FixedPoint<kDim>::kSteps / side.centroid_scale[head];
  const bool is_full = transform.kind == TransformKind::kFull;
  const bool is_diagonal = transform.kind == TransformKind::kDiagonal;
  const bool active = map.token < map.tokens;
  const int block = hadamard_block(p.head_dim);
  const float scale = is_full ? 1.0f : is_diagonal ? steps * hadamard_norm(block) : steps;
  const int warp = threadIdx.x / 32;
  for (int base = warp * map.tokens; base < update.leaving;
       base += kAppendThreads / 32 * map.tokens) {
    const int index = base + map.token;
    const int slot = (update.quantized + index) % p.residual_length;
    const bool mine = active && index < update.leaving;
    uint4 stored = make_uint4(0, 0, 0, 0);
    if (mine && slot < p.window_capacity) {
      stored = load_stored(ring + slot * window.token_stride + map.first_dim, window.aligned);
    }
    const Affine affine(transform, static_cast<int64_t>(head) * p.head_dim + map.first_dim, scale,
                        mine);
    float x[kLane];
    unpack_states(stored, p.bf16, x);
    affine.apply(x);
    if (is_diagonal) hadamard_butterfly(x, block);
    if (!mine) continue;
    const int place = index * p.head_dim + map.first_dim;
#pragma unroll
    for (int i = 0; i < kLane; i += 2) {
      if (is_full) {
        full[place + i] = x[i], full[place + i + 1] = x[i + 1];
      } else {
        *reinterpret_cast<__half2*>(fixed + place + i) = to_fixed2(x[i], x[i + 1]);
      }
    }
  }
  __syncthreads();
  if (is_full) {
    const float* matrix = transform.weight + static_cast<int64_t>(head) * p.head_dim * p.head_dim;
    float* partial = full + kAppendTokens * p.head_dim;
    multiply_few_rows(full, update.leaving, p.head_dim, matrix, partial,
                      [&](int token, int column, float value) {
                        fixed[token * p.head_dim + column] = to_fixed(value * steps);
                      });
  }
}

// Codes of the leaving tokens. The warps share the codebook, not the tokens: there are few of
// those. `fragments` holds this warp's part of the first 256 centroids; keys start as 0.
template <int kDim>
__device__ __forceinline__ void quantize_leaving(const AppendParams& p, const Side& side,
                                                 const RowUpdate& update, int head, int batch,
                                                 CentroidFragments<kDim, kAppendTiles>& fragments,
                                                 __half* fixed, int* keys) {
  constexpr int kWarpPass = 8 * kAppendTiles, kPass = kWarpPass * (kAppendThreads / 32);
  const CodeFormat& format = side.format;
  const int size = 1 << format.bits_per_code;
  const int high_bits = format.bits_per_code - 8;
  const int subvectors = p.head_dim / kDim;
  const int rows = update.leaving * subvectors;
  const int warp = threadIdx.x / 32;
  const int padded = padded_subvectors(format, p.head_dim, side.is_value);
  const PlaneOrder& order = p.orders[side.is_value];
  const FastDivider by_token = p.by_subvectors[side.is_value];
  const int plane = plane_bytes(format, p.head_dim, side.is_value);
  const int8_t* centroids =
      side.centroids + static_cast<int64_t>(head) * format.num_codes * size * kDim;
  uint8_t* codes =
      p.codes.data + batch * p.codes.batch_stride + head * p.codes.head_stride + side.tile_offset;

  for (int level = 0; level < format.num_codes; ++level) {
    const int8_t* table = centroids + level * size * kDim;
    for (int base = warp * kWarpPass; base < size; base += kPass) {
      if (level > 0 || base >= kPass) fragments.load(table + base * kDim);
      for (int first = 0; first < rows; first += 32) {
        const int key = nearest32(fixed + first * kDim, fragments, base);
        const int row = first + nearest_row();
        if (row < rows) atomicMax(&keys[row], key);
      }
    }
    __syncthreads();
    for (int first = threadIdx.x / 32 * 32; first < rows; first += kAppendThreads) {
      const int row = first + nearest_row();
      int key = row < rows ? keys[row] : 0;
      key = settle_keys<kDim>(key, row < rows, fixed + first * kDim, nearest_row(), table, size);
      if (row >= rows) continue;
      keys[row] = 0;
      const int code = key_to_code(key, format.bits_per_code);
      const int index = by_token.divide(row);
      const int slot = update.quantized + index;
      if (slot / kTile < p.codes.num_tiles) {
        uint8_t* target =
            codes + static_cast<int64_t>(slot / kTile) * p.codes.bytes_per_tile + level * plane;
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
      if (level + 1 < format.num_codes)
        subtract_centroid<kDim>(fixed + row * kDim, table + code * kDim);
    }
    if (level + 1 < format.num_codes) __syncthreads();
  }
}

// New tokens to their sink or ring places. A block's first 256 elements, with one token all, come
// in a register: read early, because they are there already, and written when the tokens that leave
// the ring have been read.
__device__ __forceinline__ uint16_t load_token(const AppendParams& p, int side, int head, int batch,
                                               int element) {
  if (element >= p.num_tokens * p.head_dim) return 0;
  const StatesView& view = p.states[side];
  const int token = p.by_head_dim.divide(element);
  return static_cast<const uint16_t*>(
      view.data)[batch * view.batch_stride + head * view.head_stride + token * view.token_stride +
                 element - token * p.head_dim];
}

__device__ __forceinline__ void store_tokens(const AppendParams& p, const RowUpdate& update,
                                             int side, int head, int batch, uint16_t early) {
  for (int element = threadIdx.x; element < p.num_tokens * p.head_dim; element += kAppendThreads) {
    const uint16_t value =
        element == threadIdx.x ? early : load_token(p, side, head, batch, element);
    const int token = p.by_head_dim.divide(element);
    const int index = update.length + token;
    const bool sink = index < p.num_sinks;
    const int place = sink ? index : (index - p.num_sinks) % p.residual_length;
    const StatesView& view = sink ? p.sinks[side] : p.window[side];
    if (!sink && place >= p.window_capacity) continue;
    uint16_t* to =
        static_cast<uint16_t*>(view.data) + batch * view.batch_stride + head * view.head_stride;
    to[place * view.token_stride + element - token * p.head_dim] = value;
  }
}

template <int kDim>
__device__ __forceinline__ void append_side(const AppendParams& p, uint8_t* shared) {
  const int head = blockIdx.x, batch = blockIdx.y, side_index = blockIdx.z;
  const Side& side = p.sides[side_index];
  // What does not depend on the lengths is asked for before them.
  CentroidFragments<kDim, kAppendTiles> fragments;
  const int64_t first = static_cast<int64_t>(head) * side.format.num_codes
                        << side.format.bits_per_code;
  fragments.load(side.centroids + (first + threadIdx.x / 32 * 8 * kAppendTiles) * kDim);
  const uint16_t early = load_token(p, side_index, head, batch, threadIdx.x);
  const RowUpdate update(p, batch);
  const AppendLayout layout(side, p.head_dim);
  float* full = reinterpret_cast<float*>(shared);
  __half* fixed = reinterpret_cast<__half*>(shared + layout.full_bytes);
  int* keys = reinterpret_cast<int*>(shared + layout.full_bytes + layout.fixed_bytes);
  if (update.leaving > 0) {
    const int rows = update.leaving * (p.head_dim / kDim);
    for (int row = threadIdx.x; row < rows; row += kAppendThreads) keys[row] = 0;
    transform_leaving<kDim>(p, side, p.window[side_index], update, head, batch, full, fixed);
  }
  // From here on nothing reads the ring.
  store_tokens(p, update, side_index, head, batch, early);
  if (update.leaving > 0)
    quantize_leaving<kDim>(p, side, update, head, batch, fragments, fixed, keys);
}

__global__ void __launch_bounds__(kAppendThreads, 3)
    append_kernel(const __grid_constant__ AppendParams p) {
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
