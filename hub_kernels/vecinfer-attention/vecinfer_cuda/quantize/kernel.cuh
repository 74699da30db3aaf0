// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// quantize: transform, nearest centroid, pack into tile order, for a whole prefill. A warp takes
// tiles of 32 tokens of one side (keys or values) of one head, so that no two warps write the same
// bytes. Here it does so chunk by chunk: while it searches one, the next is fetched. This takes
// what stream_kernel.cuh does not: codes of more than 8 bits, two codes of other than 4 elements,
// heads of 80 and 96 channels, full matrices of fp16 states, of 256 channels or where there is no
// room for them.
#pragma once

#include "block.cuh"
#include "chunk_transform.cuh"

namespace vecinfer {

// kFull: some side has a full transform; apart, as its registers would slow the search of others.
template <int kDim, bool kFull>
__global__ void __launch_bounds__(32 * kQuantizeWarps, 1)
    quantize_kernel(const __grid_constant__ QuantizeParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const QuantizeBlock place(p);
  const int first_tile = place.first_tile, end_tile = place.end_tile, head = place.head;
  if (first_tile >= end_tile) return;
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const Side& side = p.sides[place.side_index];
  const StatesView& view = p.states[place.side_index];

  const QuantizeLayout layout(side, p.head_dim, p.full_columns);
  uint8_t* at = shared + layout.operand_bytes;
  uint4* matrix = reinterpret_cast<uint4*>(at);
  at += layout.full_bytes;
  float* shift = reinterpret_cast<float*>(at);
  at += layout.shift_bytes;
  uint16_t* places = reinterpret_cast<uint16_t*>(at);
  at += layout.places_bytes;
  const WarpMemory own(layout, at + warp * layout.warp_bytes());

  clear_planes(own.low, layout.low_bytes + layout.high_bytes);

  const CodeFormat& format = side.format;
  const int bits = format.bits_per_code, size = 1 << bits;
  const int passes = format.num_codes * size / kQuantizePass;
  const bool once = passes <= layout.sets;
  const TileRows rows(p, place.side_index);
  const int8_t* centroids = place.centroids(side);
  const uint16_t* states = place.states(p);
  const float steps = FixedPoint<kDim>::kSteps / side.centroid_scale[head];
  const bool is_full = kFull && side.transform.kind == TransformKind::kFull;

  const LaneMap map(p.head_dim);
  const auto fetch = [&](int index, int first_in_tile) {
    if (index >= end_tile) return;
    fetch_chunk(states, view, map, place.tile(p, index), first_in_tile, own.raw, layout.raw_stride);
  };
  fetch(first_tile + warp, 0);

  const auto operands = [&](int set) {
    return PassOperands<kDim>(shared + set * layout.set_bytes);
  };
  fill_places(rows, places, [](int row) { return row; });
  if (once) {
#pragma unroll 1
    for (int set = 0; set < passes; ++set) {
      operands(set).load(centroids + set * kQuantizePass * kDim);
    }
  }
  const auto full = [&] {
    const int64_t first = static_cast<int64_t>(head) * p.head_dim;
    const Transform& transform = side.transform;
    return FullTransform(transform.weight + first * p.head_dim,
                         transform.mean == nullptr ? nullptr : transform.mean + first, p.head_dim,
                         p.full_columns, matrix, shift);
  };
  if (is_full) {
    full().prepare(steps);
  } else {
    prepare_affine(side.transform, head, p.head_dim, steps, shift);
  }
  __syncthreads();

#pragma unroll 1
  for (int round = first_tile; round < end_tile; round += warps) {
    const int tile_index = round + warp;
    const bool active = tile_index < end_tile;
#pragma unroll 1
    for (int chunk = 0; chunk < kTile; chunk += kChunk) {
      wait_copies<0>();
      __syncwarp();
      bool far = false;
      if (is_full) {
        far = transform_by_matrix<kDim>(full(), active, own.raw, layout.raw_stride, p.bf16, steps,
                                        p.head_dim, own.fixed);
      } else if (active) {
        const bool diagonal = side.transform.kind == TransformKind::kDiagonal;
        if (p.bf16) {
          far = transform_in_registers<kDim, true>(map, diagonal, shift, p.head_dim, own.raw,
                                                   layout.raw_stride, own.fixed);
        } else {
          far = transform_in_registers<kDim, false>(map, diagonal, shift, p.head_dim, own.raw,
                                                    layout.raw_stride, own.fixed);
        }
      }
      __syncwarp();
      const bool ended = chunk + kChunk == kTile;
      fetch(ended ? tile_index + warps : tile_index, ended ? 0 : chunk + kChunk);
      if (far) {
        clamp_fixed(own.fixed, kChunk * p.head_dim);
        __syncwarp();
      }
#pragma unroll 1
      for (int pass = 0; pass < passes; ++pass) {
        const int level = pass * kQuantizePass >> bits;
        const int8_t* table = centroids + level * size * kDim;
        constexpr int kAll = 0x7fffffff;
        const PassOrder order{table, bits, pass * kQuantizePass - level * size,
                              far ? kAll : kNoScore, level + 1 < format.num_codes};
        if (!once) {
          __syncthreads();
          operands(0).load(table + order.base * kDim);
          __syncthreads();
        }
        if (!active) continue;
        const uint16_t* chunk_places = places + (chunk == 0 ? 0 : layout.rows);
        uint8_t* low = own.low + level * layout.padded;
        uint8_t* high = own.high + level * layout.padded;
        const auto search = operands(once ? pass : 0);
        if (bits == 8 && !order.more) {
          search_chunk<kDim, true>(search, order, layout.rows, chunk_places, own.fixed, own.keys,
                                   low, high);
        } else {
          search_chunk<kDim, false>(search, order, layout.rows, chunk_places, own.fixed, own.keys,
                                    low, high);
        }
        if (order.more) {
          __syncwarp();
          far = active && any_far<kDim>(own.fixed, kChunk * p.head_dim);
        }
      }
      __syncwarp();
    }
    if (!active) continue;
    write_tile(p, place, tile_index, rows, layout.padded, own.low, own.high);
  }
}

}  // namespace vecinfer
