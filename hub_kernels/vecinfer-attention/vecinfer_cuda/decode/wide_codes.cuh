// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// One warp's attention over a run of tiles of one batch row for 8 or 16 rows: scores on int8 tensor
// cores (scores.cuh), values on fp16 ones.
//
// Weights are fp16, one column of a product for each row, where CodeAttention takes two; so 8 rows
// have as many accumulators as 4 have there. Each weight is rounded to nearest with 11 bits of its
// own size (2^-12 of it) as long as it is above 2^-20 of the reference, the largest weight when
// that was last set; down to 2^-30 the error is 2^-31 of the reference. bf16 weights err by 2^-9.
//
// V's bytes go to the product as they are, without a conversion: tables hold v + 128, which with a
// high byte of 0 is a subnormal fp16 number, (v + 128) 2^-24. A matrix of 128 2^-24 gives the sum
// of the same weights, and subtracting it from the accumulators every kUnbiasTiles tiles leaves V
// P. Accumulators stay below 128 kUnbiasTiles times the weights of a tile meanwhile: an error of
// 2^-24 * 128 of those weights for each of the products, one for 16 tokens.
#pragma once

#include <climits>

#include "scores.cuh"

namespace vecinfer {

template <class Traits, bool kSoftcap>
class WideCodeAttention : CodeScores<Traits, kSoftcap> {
  using Scores = CodeScores<Traits, kSoftcap>;
  using typename Scores::Products;
  using Value = typename Traits::Value;
  using Scores::in_steps, Scores::logit, Scores::row_scale;
  using Scores::kHeadDim, Scores::kNoScore, Scores::kRowTiles;
  using Scores::p_, Scores::step_;
  static constexpr int kColumns = kRowTiles / 2;  // blocks of 8 columns: a pair of row tiles each
  static constexpr int kBlocks = kHeadDim / 16;   // of 16 output dimensions

  // Weights are 2^kFixed at the reference and may reach 2^(kFixed + kHeadroom), the largest power
  // of 2 of fp16.
  static constexpr float kFixed = 6.f;
  static constexpr float kHeadroom = 9.f;
  static constexpr int kUnbiasTiles = 16;
  // 128 for each level, as the tables' bytes are: a pair of fp16 numbers.
  static constexpr uint32_t kBias = 0x00800080u * Value::kLevels;
  static constexpr float kByteUnit = 16777216.f;  // 2^24

 public:
  // Attention over tiles [first, last) of a batch row with `coded` tokens, to the warp's record in
  // shared memory, where the queries' fragments are; ring: already started on these tiles.
  static __device__ __forceinline__ void run(const DecodeParams& p, TileRing<Traits>& ring,
                                             int coded, int first, int last, const RowScale* scales,
                                             float value_scale, float* record) {
    WideCodeAttention self(p, scales, first, record);
    self.coded_ = coded;
    run_over_tiles(ring, first, last, self);
    self.store(value_scale, record + (threadIdx.x & 31));
  }

  // Scores of 32 tokens into score_; token of score_[.][i] is lane / 4 + 8 i.
  __device__ __forceinline__ void score(const uint32_t* keys, int tile_index) {
    int t[kRowTiles][4];
    Scores::multiply(keys, t);
    bool exceeds = tile_index == stop_;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) score_[tile][i] = static_cast<float>(t[tile][i]);
      exceeds |= max(max(t[tile][0], t[tile][1]), max(t[tile][2], t[tile][3])) > limit_[tile];
    }
    if (__any_sync(kFullWarp, exceeds)) raise_reference(t, tile_index);
  }

  // Weights of score_, and their product with the tile's values.
  __device__ __forceinline__ void accumulate(const uint32_t* values) {
    uint32_t weights[kColumns][4];  // of tokens 8 i .. 8 i + 7
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      float weight[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int tile = 2 * column + j;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          weight[j][i] = exp2_approx(Scores::log2_weight(tile, score_[tile][i], bias_[tile]));
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[column][i] = transpose_8x8(HalfPair<false>::pack(weight[0][i], weight[1][i]));
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        HalfPair<false>::mma(sums_[column], kBias, 0, kBias, 0, weights[column][2 * half],
                             weights[column][2 * half + 1]);
      }
    }
    Products::template multiply_values_wide<0>(values, weights, out_);
    if constexpr (Value::kLevels == 2) {
      Products::template multiply_values_wide<1>(values + Traits::kValueBytes / 4, weights, out_);
    }
    if (--until_unbias_ == 0) unbias();
  }

 private:
  __device__ __forceinline__ WideCodeAttention(const DecodeParams& p, const RowScale* scales,
                                               int first, const float* record)
      : Scores(p, scales, record), stop_(first), until_unbias_(kUnbiasTiles) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      reference_[tile] = kNoScore;
      limit_[tile] = INT_MAX;
      bias_[tile] = 0.f;
      weight_[tile] = 0.f;
    }
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums_[column][i] = 0.f;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) out_[column][block][i] = 0.f;
      }
    }
  }

  // The rare path: first tile, ragged last tile, or a new maximum.
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
      if (largest > limit_[tile] || is_first) {
        const float new_logit = logit(tile, static_cast<float>(largest));
        if (!is_first) {
          scale(tile, exp2_approx(logit(tile, static_cast<float>(reference_[tile])) - new_logit));
        }
        reference_[tile] = largest;
        // Under a softcap scores grow by less than this.
        limit_[tile] = largest + in_steps(tile, kHeadroom);
        bias_[tile] = kFixed - new_logit;
      }
    }
    const int ragged = (coded_ & (kTile - 1)) != 0 ? coded_ / kTile : INT_MAX;
    stop_ = ragged > tile_index ? ragged : INT_MAX;
  }

  // Scales what a row tile has summed.
  __device__ __forceinline__ void scale(int tile, float factor) {
    const int column = tile / 2, j = tile % 2;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      out_[column][block][j] *= factor;
      out_[column][block][2 + j] *= factor;
    }
    sums_[column][j] *= factor;
    weight_[tile] *= factor;
  }

  // Takes the bytes' bias out of the accumulators, and moves its sums to the weights.
  __device__ __forceinline__ void unbias() {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float bias = sums_[column][j];
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          out_[column][block][j] -= bias;
          out_[column][block][2 + j] -= bias;
        }
        weight_[2 * column + j] += bias;
        sums_[column][j] = sums_[column][2 + j] = 0.f;
      }
    }
    until_unbias_ = kUnbiasTiles;
  }

  __device__ __forceinline__ void store(float value_scale, float* record) {
    const int lane = threadIdx.x & 31;
    unbias();
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          record[(tile * (kHeadDim / 8) + 2 * block + i) * 32] =
              out_[tile / 2][block][2 * i + tile % 2] * (kByteUnit * value_scale);
        }
      }
      if (lane < kRowTile) {
        const float x = static_cast<float>(reference_[tile]) * step_[tile] + row_scale(tile).offset;
        float* maxima = record + Traits::kRows * kHeadDim + tile * kRowTile;
        maxima[0] = apply_softcap(p_, x) - kFixed;
        maxima[Traits::kRows] = weight_[tile] * (kByteUnit / (128 * Value::kLevels));
      }
    }
    __syncwarp();
  }

  int stop_;          // next tile that must take the rare path
  int until_unbias_;  // tiles
  int coded_;
  int reference_[kRowTiles];
  int limit_[kRowTiles];
  float bias_[kRowTiles];
  float weight_[kRowTiles];  // times the bias of a byte, as sums_
  float sums_[kColumns][4];
  float out_[kColumns][kBlocks][4];  // bytes are 2^-24 each
  float score_[kRowTiles][4];
};

}  // namespace vecinfer
