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
  using Pieces = BlockPieces<kWarps, Traits::kScratchFloats>;
  static_assert(Traits::kMetaOffset + sizeof(Pieces) == Traits::kSharedBytes);

  __device__ __forceinline__ FastEngine(const DecodeParams& p, int head, int row_group,
                                        char* shared)
      : p_(p),
        head_(head),
        row_group_(row_group),
        shared_(shared),
        ring_(shared + Traits::kRingOffset, threadIdx.x / 32) {}

  // Starts to fetch a run of tiles and its queries, the latter to the warp's record. Of the block's
  // first runs only one tile: more would stand before everybody's queries in the queue to memory.
  __device__ __forceinline__ void prefetch(int b, int first, int last, bool is_first_run) {
    Queries::issue(p_, b, head_, row_group_ * kRows, record());
    const uint8_t* tiles = p_.codes.data + b * p_.codes.batch_stride +
                           head_ * p_.codes.head_stride +
                           static_cast<int64_t>(first) * Traits::kTileBytes;
    ring_.start(tiles, last - first);
    if (!is_first_run) ring_.fill();
  }

  // Brings in what does not depend on the query kernel; `first_tiles` starts the first run.
  template <typename FirstTiles>
  __device__ __forceinline__ void prepare(FirstTiles first_tiles) {
    key_scale_ = __ldg(p_.key.centroid_scale + head_);
    value_scale_ = __ldg(p_.value.centroid_scale + head_);
    const QueryWeightsLoad<kHeadDim, Traits::kThreads> weights(p_, head_);
    Codebook<Traits>::fill(p_, head_, shared_, first_tiles);
    weights.store(*query_weights());
  }

  __device__ __forceinline__ void codes(int b, const RowWork& work, int first, int last,
                                        bool is_first_run, float* record) {
    RowScale* scales =
        reinterpret_cast<RowScale*>(shared_ + Traits::kScaleOffset) + threadIdx.x / 32 * kRows;
    // For the queries, not for tiles.
    if (is_first_run) {
      wait_copies<1>();
      ring_.fill();
    } else {
      wait_copies<Traits::kStages>();
    }
    Queries::transform(p_, *query_weights(), key_scale_, b, head_, row_group_ * kRows,
                       reinterpret_cast<char*>(record), scales);
    CodeAttention<Traits>::run(p_, ring_, work.coded, first, last, scales, value_scale_, record);
  }

  __device__ __forceinline__ void exact(int b, const RowWork& work, int first, int last,
                                        float* record) {
    ExactRing<kHeadDim, Traits::kExactSlots> ring(p_, work, b, head_, first, last, ring_.address());
    if (p_.bf16) {
      ExactAttention<kHeadDim, kRows, true>::run(p_, ring, work, b, head_, row_group_, first, last,
                                                 record);
    } else {
      ExactAttention<kHeadDim, kRows, false>::run(p_, ring, work, b, head_, row_group_, first, last,
                                                  record);
    }
  }

 private:
  using Queries = QueryRows<Traits>;

  __device__ __forceinline__ char* record() const {
    return shared_ + Traits::kRecordOffset + threadIdx.x / 32 * Traits::kRecordFloats * 4;
  }
  __device__ __forceinline__ QueryWeights<kHeadDim>* query_weights() const {
    static_assert(sizeof(QueryWeights<kHeadDim>) == Traits::kScratchFloats * 4);
    return reinterpret_cast<QueryWeights<kHeadDim>*>(shared_ + Traits::kMetaOffset);
  }

  const DecodeParams& p_;
  int head_;
  int row_group_;
  char* shared_;
  TileRing<Traits> ring_;
  float key_scale_, value_scale_;
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
