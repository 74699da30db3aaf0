// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What both kinds of attention over codes have in common: a warp's queries, the integer scores of a
// tile, and the pipeline that runs over tiles.
//
// Scores: K q of 32 tokens is mma m16n8k32 with centroids straight from their tables as A. B holds
// 4 queries as 16-bit integers, high bytes in even and low bytes in odd columns, so that a lane
// ends with both halves of one row's scores of 4 tokens: exact int32.
#pragma once

#include "products.cuh"
#include "query.cuh"
#include "softmax_state.cuh"
#include "tile_ring.cuh"

namespace vecinfer {

// A warp's queries, and the scores of a tile with them. kSoftcap: whether there is a softcap;
// apart, as the loops without one should not look.
template <class Traits, bool kSoftcap>
class CodeScores {
 protected:
  using Key = typename Traits::Key;
  using Products = CodeProducts<Traits>;
  static constexpr int kRowTiles = Traits::kRowTiles;
  static constexpr int kHeadDim = Traits::kHeadDim;
  static constexpr int kQueryWords = kHeadDim / 16;
  // Under every reachable score (query_limit keeps those within 2^30).
  static constexpr int kNoScore = -(1 << 30);

  // record: of the warp, where the queries' fragments are; they are in registers afterwards.
  __device__ __forceinline__ CodeScores(const DecodeParams& p, const RowScale* scales,
                                        const float* record)
      : p_(p), scales_(scales) {
    const int lane = threadIdx.x & 31;
    const uint4* fragments = reinterpret_cast<const uint4*>(record);
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kQueryWords / 4; ++i) {
        const uint4 words = fragments[(tile * 32 + lane) * (kQueryWords / 4) + i];
        query_[tile][4 * i] = words.x;
        query_[tile][4 * i + 1] = words.y;
        query_[tile][4 * i + 2] = words.z;
        query_[tile][4 * i + 3] = words.w;
      }
      step_[tile] = row_scale(tile).step;
    }
    __syncwarp();  // the record may be overwritten
  }

  // Integer scores of 32 tokens; token of t[.][i] is lane / 4 + 8 i, row lane % 4 of the row tile.
  __device__ __forceinline__ void multiply(const uint32_t* keys, int (&t)[kRowTiles][4]) const {
    int s[kRowTiles][2][4] = {};
    Products::template multiply_keys<0>(keys, query_, s);
    if constexpr (Key::kLevels == 2)
      Products::template multiply_keys<1>(keys + Traits::kKeyBytes / 4, query_, s);
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        t[tile][i] = s[tile][i / 2][i % 2 * 2] * 256 + s[tile][i / 2][i % 2 * 2 + 1];
      }
    }
  }

  // Log2 score of an integer step, and of the key mean, of this lane's row.
  __device__ __forceinline__ RowScale row_scale(int tile) const {
    return scales_[tile * kRowTile + (threadIdx.x & 3)];
  }

  // Log2 score without the part of the mean; that matters to records and under a softcap only, so
  // it is read when needed.
  __device__ __forceinline__ float logit(int tile, float t) const {
    const float x = t * step_[tile];
    if constexpr (!kSoftcap) return x;
    return apply_softcap(p_, x + row_scale(tile).offset);
  }

  // log2 of the weight that a score has, which may be -inf, relative to a bias.
  __device__ __forceinline__ float log2_weight(int tile, float score, float bias) const {
    if constexpr (!kSoftcap) return fmaf(score, step_[tile], bias);
    return score == -INFINITY ? score : logit(tile, score) + bias;
  }

  // A distance in log2, as integer scores; bounded, so that sums of it with scores stay in int32.
  __device__ __forceinline__ int in_steps(int tile, float distance) const {
    return static_cast<int>(fminf(__fdividef(distance, step_[tile]), 4e8f));
  }

  const DecodeParams& p_;
  const RowScale* scales_;
  uint32_t query_[kRowTiles][kQueryWords];
  float step_[kRowTiles];  // log2 score of an integer step
};

// Runs over tiles [first, last), on which the ring has started: attention.score(keys, tile), then
// attention.accumulate(values).
template <class Traits, class Attention>
__device__ __forceinline__ void run_over_tiles(TileRing<Traits>& ring, int first, int last,
                                               Attention& attention) {
  uint32_t keys[Traits::kKeyBytes / 4 * Traits::Key::kLevels];
  uint32_t values[Traits::kValueBytes / 4 * Traits::Value::kLevels];
  if constexpr (Traits::kStages == 1) {
#pragma unroll 1
    for (int tile = first; tile < last; ++tile) {
      wait_copies<0>();
      ring.load_keys(keys);
      ring.load_values(values, 0);
      ring.issue(0, tile + 1 < last);
      attention.score(keys, tile);
      attention.accumulate(values);
    }
  } else {
    // Scores run one tile ahead of the values, so that the two chains of loads and products
    // overlap.
    wait_copies<Traits::kStages - 1>();
    ring.load_keys(keys);
    int stage = ring.stage();
    attention.score(keys, first);
    ring.advance();
#pragma unroll 1
    for (int tile = first + 1; tile < last; ++tile) {
      ring.load_values(values, stage);
      wait_copies<Traits::kStages - 2>();
      // Wide rows need the registers of the keys.
      if constexpr (!Traits::kWide) ring.load_keys(keys);
      ring.issue(stage, tile - 1 + Traits::kStages < last);
      attention.accumulate(values);
      if constexpr (Traits::kWide) ring.load_keys(keys);
      attention.score(keys, tile);
      stage = ring.stage();
      ring.advance();
    }
    ring.load_values(values, stage);
    attention.accumulate(values);
  }
}

}  // namespace vecinfer
