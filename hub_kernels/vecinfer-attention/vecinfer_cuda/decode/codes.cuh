// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// One warp's attention over a run of tiles of one batch row, on int8 tensor cores.
//
// For up to 4 rows (8 on portable devices; Hopper has wide_codes.cuh for more). Scores: scores.cuh.
// Weights: 2^(score - reference) is scaled to 15-bit integers, two bytes as the queries. V P is a
// second mma with V's centroids, transposed byte-wise in registers. A ones-matrix as A sums the
// same integers, so weights are normalised exactly. The reference stays within kMargin above and
// kHeadroom below the largest score so far: the rare tile that exceeds it rescales.
//
// Integers under 1 would vanish: a spike could hide thousands of tokens just under 2^-14 of its
// weight. So weights are rounded by a dither instead of to nearest: floor(weight + d) with d spread
// evenly over lanes and, by the golden ratio, over tiles. Mass is kept in the mean; what one weight
// can lose or gain is 2^-13 of the largest one.
#pragma once

#include <climits>

#include "scores.cuh"

namespace vecinfer {

template <class Traits, bool kSoftcap>
class CodeAttention : CodeScores<Traits, kSoftcap> {
  using Scores = CodeScores<Traits, kSoftcap>;
  using typename Scores::Products;
  using Value = typename Traits::Value;
  using Scores::in_steps, Scores::logit, Scores::row_scale;
  using Scores::kHeadDim, Scores::kNoScore, Scores::kRowTiles;
  using Scores::p_, Scores::step_;
  static constexpr int kBlocks = kHeadDim / 16;  // of 16 output dimensions

  // log2 of the fixed point: weights reach 2^(kFixed + kHeadroom) < 2^15.
  static constexpr float kFixed = 14.f;
  static constexpr float kHeadroom = 0.95f;
  static constexpr float kMargin = 1.f;
  // 2^15: an fp32 sum with it has the integer in bytes 1 and 2 and 8 bits of fraction below.
  static constexpr uint32_t kMagic = 0x47000000u;
  static constexpr uint32_t kOnes = 0x01010101u;

 public:
  // Attention over tiles [first, last) of a batch row with `coded` tokens, to the warp's record in
  // shared memory, where the queries' fragments are; ring: already started on these tiles.
  static __device__ __forceinline__ void run(const DecodeParams& p, TileRing<Traits>& ring,
                                             int coded, int first, int last, const RowScale* scales,
                                             float value_scale, float* record) {
    CodeAttention self(p, scales, first, record);
    self.coded_ = coded;
    run_over_tiles(ring, first, last, self);
    self.store(value_scale);
  }

  // Scores of 32 tokens into score_; token of score_[.][i] is lane / 4 + 8 i.
  __device__ __forceinline__ void score(const uint32_t* keys, int tile_index) {
    int t[kRowTiles][4];
    Scores::multiply(keys, t);
    bool exceeds = tile_index == stop_;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score_[tile][i] = static_cast<float>(t[tile][i]);
      }
      exceeds |= max(max(t[tile][0], t[tile][1]), max(t[tile][2], t[tile][3])) > limit_[tile];
    }
    if (__any_sync(kFullWarp, exceeds)) raise_reference(t, tile_index);
  }

  // Weights of score_, and their product with the tile's values.
  __device__ __forceinline__ void accumulate(const uint32_t* values) {
    const float magic = __uint_as_float(kMagic | (dither_ & 0xff));
    dither_ += kGolden;
    uint32_t weights[kRowTiles][2];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      uint32_t fixed[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float weight = exp2_approx(Scores::log2_weight(tile, score_[tile][i], bias_[tile]));
        fixed[i] = __float_as_uint(weight + magic);
      }
      // High bytes of tokens r, r + 8 beside low bytes: a 16-bit column pair of the transpose.
      weights[tile][0] = transpose_8x8(permute_bytes(fixed[0], fixed[1], 0x5162));
      weights[tile][1] = transpose_8x8(permute_bytes(fixed[2], fixed[3], 0x5162));
      mma_s8u8(sums_[tile], kOnes, 0, kOnes, 0, weights[tile][0], weights[tile][1]);
    }
    Products::template multiply_values<0>(values, weights, out_);
    if constexpr (Value::kLevels == 2) {
      Products::template multiply_values<1>(values + Traits::kValueBytes / 4, weights, out_);
    }
  }

 private:
  __device__ __forceinline__ CodeAttention(const DecodeParams& p, const RowScale* scales, int first,
                                           float* record)
      : Scores(p, scales, record), record_(record + (threadIdx.x & 31)), stop_(first) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      reference_[tile] = kNoScore;
      limit_[tile] = INT_MAX;
      bias_[tile] = 0.f;
      weight_[tile] = 0.f;
#pragma unroll
      for (int i = 0; i < 4; ++i) sums_[tile][i] = 0;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out_[tile][block][i] = 0;
      }
    }
    dither_ = (threadIdx.x & 28) * 8 + 16 + first * kGolden;
  }

  // The rare path: first tile, ragged last tile, a new maximum, or int32 sums that must be flushed.
  __device__ __forceinline__ void raise_reference(const int (&t)[kRowTiles][4], int tile_index) {
    const int lane = threadIdx.x & 31;
    const int valid = coded_ - tile_index * kTile;  // 32 or more but in the last tile
    const bool is_first = reference_[0] == kNoScore;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      int largest = kNoScore;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if ((lane >> 2) + 8 * i < valid) {
          largest = max(largest, t[tile][i]);
        } else {
          score_[tile][i] = -INFINITY;
        }
      }
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) {
        largest = max(largest, __shfl_xor_sync(kFullWarp, largest, distance));
      }
      int reference = reference_[tile];
      if (largest > limit_[tile] || is_first) {
        reference = largest + in_steps(tile, kMargin);
      }
      const float new_logit = logit(tile, static_cast<float>(reference));
      if (!is_first) {
        flush(tile, 1.f,
              exp2_approx(logit(tile, static_cast<float>(reference_[tile])) - new_logit));
      }
      reference_[tile] = reference;
      // Under a softcap scores grow by less than this.
      limit_[tile] = reference + in_steps(tile, kHeadroom);
      bias_[tile] = kFixed - new_logit;
    }
    const int ragged = (coded_ & (kTile - 1)) != 0 ? coded_ / kTile : INT_MAX;
    stop_ = min(ragged > tile_index ? ragged : INT_MAX, tile_index + Traits::kFlushTiles);
  }

  // Moves a row tile's int32 sums to the record, everything there scaled; sums of values by `unit`
  // besides.
  __device__ __forceinline__ void flush(int tile, float unit, float factor) {
    const bool flushed = weight_[tile] > 0.f;  // before; else the record holds anything
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float* place = record_ + (tile * (kHeadDim / 8) + 2 * block + i) * 32;
        *place = (combined(out_[tile][block], i) + (flushed ? *place : 0.f)) * (unit * factor);
        out_[tile][block][2 * i] = out_[tile][block][2 * i + 1] = 0;
      }
    }
    weight_[tile] = (weight_[tile] + combined(sums_[tile], 0)) * factor;
    sums_[tile][0] = sums_[tile][1] = 0;
  }

  static __device__ __forceinline__ float combined(const int (&sums)[4], int i) {
    return fmaf(256.f, static_cast<float>(sums[2 * i]), static_cast<float>(sums[2 * i + 1]));
  }

  __device__ __forceinline__ void store(float value_scale) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      flush(tile, value_scale, 1.f);
      if (lane < kRowTile) {
        const float x = static_cast<float>(reference_[tile]) * step_[tile] + row_scale(tile).offset;
        float* maxima = record_ + Traits::kRows * kHeadDim + tile * kRowTile;
        maxima[0] = apply_softcap(p_, x) - kFixed;
        maxima[Traits::kRows] = weight_[tile];
      }
    }
    __syncwarp();
  }

  // 256 / golden ratio, odd.
  static constexpr uint32_t kGolden = 159;

  float* record_;  // this lane's column
  int stop_;       // next tile that must take the rare path
  int coded_;
  uint32_t dither_;
  int reference_[kRowTiles];
  int limit_[kRowTiles];
  float bias_[kRowTiles];
  float weight_[kRowTiles];  // flushed
  int sums_[kRowTiles][4];   // weights, high and low bytes
  int out_[kRowTiles][kBlocks][4];
  float score_[kRowTiles][4];
};

}  // namespace vecinfer
