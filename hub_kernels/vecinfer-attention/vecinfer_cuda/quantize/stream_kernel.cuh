// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// quantize for heads of 64, 128 or 256 channels and codes of 8 bits: a warp transforms its next
// tokens between the products that search the present ones, so that neither waits for the other's
// arithmetic.
#pragma once

#include <type_traits>

#include "affine_feed.cuh"
#include "matrix_feed.cuh"

namespace vecinfer {

// What the searches of a warp share.
struct StreamSearch {
  const int8_t* centroids;
  int level_bytes;  // of codes
  int set_bytes;    // of operands
  uint32_t constants;
  int mine;  // of 32 rows, this lane's
  QuadKeys<kQuantizeTiles> quad;
};

// One level of two groups of rows: its codes, and what is left for the next level. beside: see
// find_best. far: some row needs care.
template <int kDim, bool kMore, class Beside>
__device__ __forceinline__ void search_level(const StreamSearch& search, int level,
                                             uint8_t* operands, const uint16_t* places,
                                             __half* rows, bool far, uint8_t* low, Beside& beside) {
  constexpr int kAll = 0x7fffffff;
  const PassOperands<kDim> fragments(operands + level * search.set_bytes);
  int best[kSearchGroups][4];
  find_best<kDim, kQuantizeTiles, kSearchGroups>(rows, fragments, search.constants, best, beside);
  const int8_t* table = search.centroids + level * kQuantizePass * kDim;
  int key[kSearchGroups], least = kAll;
#pragma unroll
  for (int group = 0; group < kSearchGroups; ++group) {
    key[group] = search.quad.reduce(best[group], 0);
    least = min(least, key[group]);
  }
  // One vote for all groups: hardly ever is it needed.
  if (__any_sync(kFullWarp, least < (far ? kAll : kNoScore))) {
#pragma unroll
    for (int group = 0; group < kSearchGroups; ++group) {
      key[group] = settle_keys<kDim>(key[group], true, rows + 32 * group * kDim, search.mine, table,
                                     kQuantizePass);
    }
  }
#pragma unroll
  for (int group = 0; group < kSearchGroups; ++group) {
    const int row = 32 * group + search.mine;
    const uint8_t code = static_cast<uint8_t>(~key[group]);
    low[places[row] + level * search.level_bytes] = code;
    if (kMore) subtract_centroid<kDim>(rows + row * kDim, table + code * kDim);
  }
}

// All levels.
template <int kDim, int kLevels, class Beside>
__device__ __forceinline__ void search_rows(const StreamSearch& search, uint8_t* operands,
                                            const uint16_t* places, __half* rows, bool far,
                                            uint8_t* low, Beside& beside) {
  static_assert(kLevels == 1 || kLevels == 2);
  search_level<kDim, kLevels == 2>(search, 0, operands, places, rows, far, low, beside);
  if constexpr (kLevels == 2) {
    __syncwarp();
    const bool rest_far = any_far<kDim>(rows, 32 * kSearchGroups * kDim);
    const NothingBeside nothing;
    search_level<kDim, false>(search, 1, operands, places, rows, rest_far, low, nothing);
  }
}

// A block's tiles, warp by warp.
template <int kDim, int kHeadDim, int kLevels, class Feed>
__device__ __forceinline__ void stream_tiles(const QuantizeParams& p, const QuantizeBlock& place,
                                             const StreamMemory& memory) {
  using Step = typename Feed::Step;
  using Coming = typename Feed::Coming;
  constexpr int kSearchRows = 32 * kSearchGroups;
  constexpr int kRows = Step::kElements / kDim, kSearches = kRows / kSearchRows;
  static_assert(kRows % kSearchRows == 0 && Step::kSteps % 2 == 0);
  static_assert(Step::kElements == StreamLayout::step_elements(kDim));
  const Side& side = p.sides[place.side_index];
  const StreamLayout layout(side, kHeadDim);
  const TileRows rows(p, place.side_index);
  clear_planes(memory.low, layout.low_bytes);

  const int warps = blockDim.x / 32, first_tile = place.first_tile + threadIdx.x / 32;
  if (first_tile >= place.end_tile) return;
  const StreamSearch search{place.centroids(side),          layout.padded, layout.set_bytes,
                            RowFragment<kDim>::constants(), nearest_row(), {}};
  Feed feed(p, place, memory, first_tile, warps);
  bool far;
  {
    Coming first = feed.coming(memory.fixed);
#pragma unroll
    for (int stage = 0; stage < Coming::kStages; ++stage) first(stage);
    far = feed.finish(first, memory.fixed);
  }
#pragma unroll 1
  for (int index = first_tile; index < place.end_tile; index += warps) {
    const uint16_t* places = memory.places;
#pragma unroll 1
    for (int step = 0; step < Step::kSteps; ++step) {
      __half* const present = memory.fixed + step % 2 * Step::kElements;
      __half* const next = memory.fixed + (step + 1) % 2 * Step::kElements;
      if (far) {
        clamp_fixed(present, Step::kElements);
        __syncwarp();
      }
      Coming coming = feed.coming(next);
      const auto search_part = [&](int part, auto& beside) {
        search_rows<kDim, kLevels>(search, memory.operands, places + part * kSearchRows,
                                   present + part * kSearchRows * kDim, far, memory.low, beside);
      };
      search_part(0, coming);
      const NothingBeside nothing;
#pragma unroll
      for (int part = 1; part < kSearches; ++part) search_part(part, nothing);
      far = feed.finish(coming, next);
      places += kRows;
    }
    write_tile(p, place, index, rows, layout.padded, memory.low, nullptr);
  }
}

// kLevels: of codes of 8 bits. kMatrix: of sides with full matrices, else without.
template <int kDim, int kHeadDim, int kLevels, bool kMatrix>
__global__ void __launch_bounds__(32 * kQuantizeWarps, 1)
    quantize_stream_kernel(const __grid_constant__ QuantizeParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const QuantizeBlock place(p);
  if (place.first_tile >= place.end_tile) return;
  const Side& side = p.sides[place.side_index];
  const Transform& transform = side.transform;
  const StreamLayout layout(side, kHeadDim);
  const StreamMemory memory(layout, shared,
                            FixedPoint<kDim>::kSteps / side.centroid_scale[place.head]);
  using MatrixTokens = MatrixFeed<kDim, kHeadDim>;
  fill_places(TileRows(p, place.side_index), memory.places, [](int row) {
    if constexpr (kMatrix) return MatrixTokens::tile_row(row);
    return row;
  });
  const int8_t* centroids = place.centroids(side);
#pragma unroll
  for (int level = 0; level < kLevels; ++level) {
    PassOperands<kDim>(memory.operands + level * layout.set_bytes)
        .load(centroids + level * kQuantizePass * kDim);
  }
  if constexpr (kMatrix) {
    const int64_t first = static_cast<int64_t>(place.head) * kHeadDim;
    FullTransform(transform.weight + first * kHeadDim,
                  transform.mean == nullptr ? nullptr : transform.mean + first, kHeadDim, kHeadDim,
                  memory.matrix, memory.shift)
        .prepare(memory.steps);
    __syncthreads();
    stream_tiles<kDim, kHeadDim, kLevels, MatrixTokens>(p, place, memory);
  } else {
    prepare_affine(transform, place.head, kHeadDim, memory.steps, memory.shift);
    __syncthreads();
    const auto run = [&](auto hadamard, auto bf16) {
      using Tokens = AffineFeed<kDim, kHeadDim, hadamard.value, bf16.value>;
      stream_tiles<kDim, kHeadDim, kLevels, Tokens>(p, place, memory);
    };
    constexpr std::true_type kYes;
    constexpr std::false_type kNo;
    const bool diagonal = transform.kind == TransformKind::kDiagonal;
    if (p.bf16) {
      diagonal ? run(kYes, kYes) : run(kNo, kYes);
    } else {
      diagonal ? run(kYes, kNo) : run(kNo, kNo);
    }
  }
}

}  // namespace vecinfer
