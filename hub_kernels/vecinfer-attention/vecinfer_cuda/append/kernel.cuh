// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// append: a few new tokens per row. One block does one side of one head of one row: it quantizes
// the tokens that leave the ring, then puts the new ones in their place. All blocks read the old
// lengths; a second, dependent kernel advances them.
#pragma once

#include "../common/nearest.cuh"
#include "transform.cuh"

namespace vecinfer {

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

  for (int level = 0; level < format.num_codes; ++level) {
    const int8_t* table = centroids + level * size * kDim;
    for (int base = warp * kWarpPass; base < size; base += kPass) {
      if (level > 0 || base >= kPass) fragments.load(table + base * kDim);
      for (int first = 0; first < rows; first += 32) {
        const int key = find_nearest<kDim, kAppendTiles>(fixed + first * kDim, fragments, base);
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
            code_tile(p.codes, batch, head, slot / kTile) + side.tile_offset + level * plane;
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
    const int place = sink ? index : (index - p.num_sinks) % p.ring_slots;
    const StatesView& view = sink ? p.sinks[side] : p.ring[side];
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
    transform_leaving<kDim>(p, side, p.ring[side_index], update, head, batch, full, fixed);
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
