// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Choices of decode_attention that are not correctness: how many blocks, how work is weighed.
#pragma once

#include <algorithm>

#include "decode_attention_params.h"

namespace vecinfer {

// More splits than this help nobody: 132 multiprocessors and one kv head.
constexpr int kMaxSplits = 1024;

// One block per multiprocessor: a block's shared memory fills it, and a second wave would pay the
// codebooks again. With 132 multiprocessors and 8 kv heads that is 16 splits; 4 multiprocessors
// stay free for the combining kernel.
inline int num_splits_heuristic(int multiprocessors, int kv_heads, int row_groups) {
  return std::clamp(multiprocessors / (kv_heads * row_groups), 1, kMaxSplits);
}

// Work of 16 exact tokens in tiles. By bytes it is 4 (8 KB against 2 KB with 128 elements and 2
// bits), but their loads are not prefetched far, and a warp that is given too many of them ends
// last. Measured on an H100 with 3, 4, 5 and 6: 3 costs up to 15 %, the others are within 8 % of
// each other and 6 is best for long rows.
constexpr int kExactWeight = 6;

// Largest 16-bit query whose score cannot reach 2^30 in size: 2^30 / (128 * D * levels), within 127
// * 256.
inline int query_limit(int head_dim, int levels) {
  return std::min(32512, (1 << 30) / (128 * head_dim * levels) - 1);
}

// Slices of a combining block: a row's records are those of the splits it lies in and a few exact
// ones; what does not go in one round of loads is shared by several slices if there is room.
inline int combine_slices(int splits, int batch, int blocks, int head_dim, int multiprocessors) {
  const bool room = static_cast<long long>(blocks) * head_dim * 4 <= multiprocessors * 2048ll;
  return splits / batch > 3 && room ? 4 : 1;
}

}  // namespace vecinfer
