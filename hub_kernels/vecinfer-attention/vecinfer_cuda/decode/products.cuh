// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The products of one warp and a tile of codes: centroids go from their tables in shared memory
// straight to the A operands.
#pragma once

#include "codebook.cuh"

namespace vecinfer {

template <class Traits>
struct CodeProducts {
  using Key = typename Traits::Key;
  using Value = typename Traits::Value;
  static constexpr int kRowTiles = Traits::kRowTiles;
  static constexpr int kHeadDim = Traits::kHeadDim;
  static constexpr int kQueryWords = kHeadDim / 16;
  static constexpr int kBlocks = kHeadDim / 16;  // of 16 output dimensions

  // s += K q of one level of the codes.
  template <int kLevel>
  static __device__ __forceinline__ void multiply_keys(
      const uint32_t* codes, const uint32_t (&query)[kRowTiles][kQueryWords],
      int (&s)[kRowTiles][2][4]) {
    constexpr int kPart = kHeadDim / Key::kDim / 4;  // sub-vectors of a token in one lane
    const uint32_t base = Codebook<Traits>::template lane_base<Key::kDim>();
#pragma unroll
    for (int step = 0; step < kHeadDim / 32; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t low[2], high[2];  // rows lane / 4 and 8 more
        const int index = step * 8 / Key::kDim;
        const int place[2] = {half * 2 * kPart + index, (half * 2 + 1) * kPart + index};
#pragma unroll
        for (int i = 0; i < 8 / Key::kDim; ++i) {
          constexpr int kWords = Key::kDim / 4;
          Codebook<Traits>::template look_up<kLevel, Key::kDim>(
              low + i * kWords, codes[(place[0] + i) / 4], (place[0] + i) % 4, base);
          Codebook<Traits>::template look_up<kLevel, Key::kDim>(
              high + i * kWords, codes[(place[1] + i) / 4], (place[1] + i) % 4, base);
        }
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          mma_s8s8(s[tile][half], low[0], high[0], low[1], high[1], query[tile][2 * step],
                   query[tile][2 * step + 1]);
        }
      }
    }
  }

  // out += V^T P of one level of the codes; V is transposed byte-wise.
  template <int kLevel>
  static __device__ __forceinline__ void multiply_values(const uint32_t* codes,
                                                         const uint32_t (&weights)[kRowTiles][2],
                                                         int (&out)[kRowTiles][kBlocks][4]) {
    constexpr int kPart = kHeadDim / Value::kDim / 8;
    constexpr int kWords = Value::kDim / 4;
    const uint32_t base = Codebook<Traits>::template lane_base<Value::kDim>();
#pragma unroll
    for (int part = 0; part < kPart; ++part) {
      uint32_t x[2][4][kWords];  // [half][token]
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int token = 0; token < 4; ++token) {
          const int place = (half * 4 + token) * kPart + part;
          Codebook<Traits>::template look_up<Key::kLevels + kLevel, Value::kDim>(
              x[half][token], codes[place / 4], place % 4, base);
        }
      }
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        uint32_t a[2][4];  // [half][dimension]: 4 tokens
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t x0 = x[half][0][word], x1 = x[half][1][word];
          const uint32_t x2 = x[half][2][word], x3 = x[half][3][word];
          const uint32_t low01 = permute_bytes(x0, x1, 0x5140);
          const uint32_t high01 = permute_bytes(x0, x1, 0x7362);
          const uint32_t low23 = permute_bytes(x2, x3, 0x5140);
          const uint32_t high23 = permute_bytes(x2, x3, 0x7362);
          a[half][0] = permute_bytes(low01, low23, 0x5410);
          a[half][1] = permute_bytes(low01, low23, 0x7632);
          a[half][2] = permute_bytes(high01, high23, 0x5410);
          a[half][3] = permute_bytes(high01, high23, 0x7632);
        }
        const int block = (part * kWords + word) * 2;
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          mma_s8u8(out[tile][block], a[0][0], a[0][1], a[1][0], a[1][1], weights[tile][0],
                   weights[tile][1]);
          mma_s8u8(out[tile][block + 1], a[0][2], a[0][3], a[1][2], a[1][3], weights[tile][0],
                   weights[tile][1]);
        }
      }
    }
  }

  // The same for fp16 weights (tokens 8 i .. 8 i + 7 in weights[.][i]) and tables that hold v +
  // 128: bytes with a zero above them are fp16 numbers, 2^-24 each.
  template <int kLevel>
  static __device__ __forceinline__ void multiply_values_wide(
      const uint32_t* codes, const uint32_t (&weights)[kRowTiles / 2][4],
      float (&out)[kRowTiles / 2][kBlocks][4]) {
    constexpr int kPart = kHeadDim / Value::kDim / 8;
    constexpr int kWords = Value::kDim / 4;
    constexpr uint32_t kEvenBytes = 0x00ff00ffu;
    const uint32_t base = Codebook<Traits>::template lane_base<Value::kDim>();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int part = 0; part < kPart; ++part) {
        uint32_t x[4][kWords];  // tokens 2 q, 2 q + 8, 2 q + 1, 2 q + 9 for q = lane % 4
#pragma unroll
        for (int token = 0; token < 4; ++token) {
          const int place = (half * 4 + token) * kPart + part;
          Codebook<Traits>::template look_up<Key::kLevels + kLevel, Value::kDim>(
              x[token], codes[place / 4], place % 4, base);
        }
#pragma unroll
        for (int word = 0; word < kWords; ++word) {
#pragma unroll
          for (int pair = 0; pair < 2; ++pair) {  // of dimensions
            const uint32_t near = permute_bytes(x[0][word], x[2][word], pair ? 0x7632 : 0x5410);
            const uint32_t far = permute_bytes(x[1][word], x[3][word], pair ? 0x7632 : 0x5410);
            const uint32_t a0 = near & kEvenBytes, a1 = permute_bytes(near, 0, 0x4341);
            const uint32_t a2 = far & kEvenBytes, a3 = permute_bytes(far, 0, 0x4341);
            const int block = (part * kWords + word) * 2 + pair;
#pragma unroll
            for (int column = 0; column < kRowTiles / 2; ++column) {
              HalfPair<false>::mma(out[column][block], a0, a1, a2, a3, weights[column][2 * half],
                                   weights[column][2 * half + 1]);
            }
          }
        }
      }
    }
  }
};

}  // namespace vecinfer
