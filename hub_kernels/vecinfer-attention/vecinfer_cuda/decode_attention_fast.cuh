// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The engine for byte codes: codebooks in shared memory, int8 tensor cores for codes, 16-bit ones
// for exact tokens.
#pragma once

#include "decode_attention.cuh"
#include "decode_attention_codes.cuh"
#include "decode_attention_exact.cuh"

namespace vecinfer {

template <class Traits>
class FastEngine {
 public:
  static constexpr int kWarps = Traits::kWarps;
  static constexpr int kRows = Traits::kRows;
  static constexpr int kHeadDim = Traits::kHeadDim;
  static constexpr bool kAsideShared = Traits::kAsideShared;
  static constexpr int kRecordOffset = Traits::kRecordOffset;
  static constexpr int kMetaOffset = Traits::kMetaOffset;
  static_assert(sizeof(BlockPieces<kWarps, kRows>) <= Traits::kMetaBytes);

  __device__ __forceinline__ FastEngine(const DecodeParams& p, int head, int row_group,
                                        char* shared)
      : p_(p),
        head_(head),
        row_group_(row_group),
        shared_(shared),
        ring_(shared + Traits::kRingOffset, threadIdx.x / 32) {}

  // Starts to fetch a run of tiles.
  __device__ __forceinline__ void prefetch(int b, int first, int last) {
    const uint8_t* tiles = p_.codes.data + b * p_.codes.batch_stride +
                           head_ * p_.codes.head_stride +
                           static_cast<int64_t>(first) * Traits::kTileBytes;
    ring_.start(tiles, last - first);
  }

  // Brings in what does not depend on the query kernel; `first_tiles` starts the first run.
  template <typename FirstTiles>
  __device__ __forceinline__ void prepare(FirstTiles first_tiles) {
    value_scale_ = __ldg(p_.value.centroid_scale + head_);
    Codebook<Traits>::fill(p_, head_, shared_, first_tiles);
  }

  __device__ __forceinline__ void codes(int b, const RowWork& work, int first, int last,
                                        float* record) {
    const int query_row = (b * p_.kv_heads + head_) * p_.padded_rows() + row_group_ * Traits::kRows;
    CodeAttention<Traits>::run(p_, ring_, work.coded, first, last, query_row, value_scale_, record);
  }

  __device__ __forceinline__ void exact(int b, const RowWork& work, int first, int last,
                                        float* record) {
    if (p_.bf16) {
      ExactAttention<Traits::kHeadDim, Traits::kRows, true>::run(p_, work, b, head_, row_group_,
                                                                 first, last, record);
    } else {
      ExactAttention<Traits::kHeadDim, Traits::kRows, false>::run(p_, work, b, head_, row_group_,
                                                                  first, last, record);
    }
  }

 private:
  const DecodeParams& p_;
  int head_;
  int row_group_;
  char* shared_;
  TileRing<Traits> ring_;
  float value_scale_;
};

template <class Traits>
__global__ void __maxnreg__(Traits::kRegisters)
    decode_fast_kernel(const __grid_constant__ DecodeParams p) {
  extern __shared__ char shared[];
  // Other devices get no code for Hopper's variants; the host does not launch them there.
#if __CUDA_ARCH__ == 900
  decode_block<FastEngine<Traits>>(p, shared);
#else
  if constexpr (Traits::kTarget == Target::kPortable) decode_block<FastEngine<Traits>>(p, shared);
#endif
}

}  // namespace vecinfer
