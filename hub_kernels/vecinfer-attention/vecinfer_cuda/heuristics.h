// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Choices of decode_attention that are not correctness: how many blocks, how work is weighed.
#pragma once

#include <algorithm>

#include "decode_attention_params.h"

namespace vecinfer {

// More splits than this help nobody: 132 multiprocessors and one kv head.
constexpr int kMaxSplits = 1024;

// One block per multiprocessor: a block's shared memory fills it, and a second wave would pay the codebooks again. With
// 132 multiprocessors and 8 kv heads that is 16 splits; 4 multiprocessors stay free for the combining kernel.
inline int num_splits_heuristic(int multiprocessors, int kv_heads, int row_groups) {
  return std::clamp(multiprocessors / (kv_heads * row_groups), 1, kMaxSplits);
}

// Work of 16 exact tokens in tiles, by bytes: 8 KB against 2 KB with 128 elements and 2 bits.
inline int exact_weight(int head_dim, int bytes_per_tile) {
  const int bytes = kExactUnit * head_dim * 2 * 2;
  return std::max(1, (bytes + bytes_per_tile / 2) / bytes_per_tile);
}

// Largest 16-bit query whose score cannot reach 2^30 in size: 2^30 / (128 * D * levels), within 127 * 256.
inline int query_limit(int head_dim, int levels) {
  return std::min(32512, (1 << 30) / (128 * head_dim * levels) - 1);
}

// Slices of a combining block: many records and few blocks ask for several.
inline int combine_slices(int splits, int blocks, int head_dim, int multiprocessors) {
  const bool room = static_cast<long long>(blocks) * head_dim * 4 <= multiprocessors * 2048ll;
  return splits > 2 && room ? 4 : 1;
}

}  // namespace vecinfer
