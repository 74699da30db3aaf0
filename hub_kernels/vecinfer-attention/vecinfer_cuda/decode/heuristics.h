// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Choices of decode_attention that are not correctness: how many blocks, how work is weighed.
#pragma once

#include <algorithm>

#include "params.h"

namespace vecinfer {

// More splits than this help nobody: 132 multiprocessors and one kv head.
constexpr int kMaxSplits = 1024;

// One block per multiprocessor: a block's shared memory fills it, and a second wave would pay the
// codebooks again. With 132 multiprocessors and 8 kv heads that is 16 splits; 4 multiprocessors
// stay free for the combining kernel.
inline int num_splits_heuristic(int multiprocessors, int kv_heads, int row_groups) {
  return std::clamp(multiprocessors / (kv_heads * row_groups), 1, kMaxSplits);
}

// Work of starting a row, in tiles: its queries, and the first loads that nothing hides.
constexpr int kStartWeight = 2;

// Work of a unit of exact tokens in tiles: by bytes, but 2 at most, as small tiles are bound by
// arithmetic. Without a ring of at least two chunks loads wait for one another.
inline int exact_weight(int exact_slots, int head_dim, int tile_bytes) {
  const int unit_bytes = kExactUnit * head_dim * 4;
  return std::clamp((unit_bytes + tile_bytes / 2) / tile_bytes, 1, 2) * (exact_slots < 2 ? 3 : 1);
}

// Largest 16-bit query whose score cannot reach 2^30 in size: 2^30 / (128 * D * levels), within 127
// * 256.
inline int query_limit(int head_dim, int levels) {
  return std::min(32512, (1 << 30) / (128 * head_dim * levels) - 1);
}

// Slices of a combining block: a row's records are those of the splits it lies in and a few exact
// ones; what does not go in one round of loads is shared by several slices if there is room.
inline int combine_slices(int splits, int batch, int blocks, int multiprocessors) {
  return splits / batch > 3 && blocks <= 2 * multiprocessors ? 4 : 1;
}

// Tiles of rows of a block that multiplies them by a full matrix, which it fetches once: 1, 2 or 4,
// as few as leave the blocks within one wave. One tile has kernels of its own, which are sooner
// done with it.
inline int matrix_tiles(int tiles, int multiprocessors) {
  return tiles <= multiprocessors ? 1 : tiles <= 2 * multiprocessors ? 2 : 4;
}

// Blocks per head of the query kernel for many rows: one wave, whose blocks take as many chunks of
// rows as they must.
inline int query_blocks(int chunks, int kv_heads, int multiprocessors) {
  return std::clamp(multiprocessors / kv_heads, 1, chunks);
}

}  // namespace vecinfer
