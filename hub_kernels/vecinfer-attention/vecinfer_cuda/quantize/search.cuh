// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The search of quantize: a warp's chunk of sub-vectors in fixed point, pass by pass, to codes in
// the order of their plane.
#pragma once

#include "../common/nearest.cuh"
#include "layout.cuh"

namespace vecinfer {

// kQuantizePass centroids as operands in shared memory.
template <int kDim>
using PassOperands = SharedCentroidFragments<kDim, kQuantizeTiles>;

// What a search is told besides its rows and operands.
struct PassOrder {
  const int8_t* table;  // the level's centroids
  int bits;             // of the level's codes
  int base;             // the pass's first centroid
  int careful;          // keys below this one are settled
  bool more;            // whether another level follows
};

// One pass of a chunk; after a level's last pass, its codes. places: position in the plane of each
// row. kSimple: the level has 8 bits, and none follows.
template <int kDim, bool kSimple>
__device__ __forceinline__ void search_chunk(const PassOperands<kDim>& operands,
                                             const PassOrder& order, int num_rows,
                                             const uint16_t* places, __half* fixed, int* keys,
                                             uint8_t* low, uint8_t* high) {
  constexpr int kGroups = kSearchGroups;
  const uint32_t constants = RowFragment<kDim>::constants();
  const QuadKeys<kQuantizeTiles> quad;
  const int size = kSimple ? kQuantizePass : 1 << order.bits;
  const bool last = kSimple || order.base + kQuantizePass >= size;
  const int mine = nearest_row();
  __half* const end = fixed + num_rows * kDim;
  places += mine, keys += mine;
#pragma unroll 1
  for (__half* rows = fixed; rows < end; rows += 32 * kGroups * kDim) {
    int best[kGroups][4];
    find_best<kDim, kQuantizeTiles, kGroups>(rows, operands, constants, best);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      __half* const first = rows + 32 * group * kDim;
      if (first >= end) break;
      int key = quad.reduce(best[group], kSimple ? 0 : order.base);
      if constexpr (!kSimple) {
        int& kept = keys[32 * group];
        if (order.base > 0) key = max(key, kept);
        if (!last) {
          kept = key;
          continue;
        }
      }
      if (__any_sync(kFullWarp, key < order.careful)) {
        key = settle_keys<kDim>(key, true, first, mine, order.table, size);
      }
      const int place = places[32 * group];
      low[place] = static_cast<uint8_t>(~key);
      if constexpr (!kSimple) {
        const int code = key_to_code(key, order.bits);
        if (order.bits > 8) high[place] = static_cast<uint8_t>(code >> 8);
        if (order.more) subtract_centroid<kDim>(first + mine * kDim, order.table + code * kDim);
      }
    }
    places += 32 * kGroups, keys += 32 * kGroups;
  }
}

}  // namespace vecinfer
