// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The engine for byte codes: codebooks in shared memory, int8 tensor cores for codes, 16-bit ones
// for exact tokens.
#pragma once

#include <type_traits>

#include "codes.cuh"
#include "exact.cuh"
#include "kernel.cuh"
#include "wide_codes.cuh"

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
        ring_(p.codes, shared + Traits::kRingOffset, threadIdx.x / 32) {}

  // Starts to fetch a run of tiles, and its queries to the warp's record. Of the block's first runs
  // only one tile: more would stand before everybody's queries in the queue to memory.
  __device__ __forceinline__ void prefetch(int b, int first, int last, bool with_queries,
                                           bool is_first_run) {
    if (with_queries && !(is_first_run && has_only_row())) {
      Queries::issue(p_, b, head_, row_group_ * kRows, record(warp()));
    }
    commit_copies();
    ring_.start(b, first, last - first);
    if (!is_first_run) ring_.fill();
  }

  // Brings in what does not depend on the query kernel; `first_tiles` starts the first run.
  template <typename FirstTiles>
  __device__ __forceinline__ void prepare(FirstTiles first_tiles) {
    key_scale_ = __ldg(p_.key.centroid_scale + head_);
    value_scale_ = __ldg(p_.value.centroid_scale + head_);
    const QueryWeightsLoad<kHeadDim, Traits::kThreads> weights(p_, head_);
    Codebook<Traits>::fill(p_, head_, shared_, [&] {
      // While the lengths are on their way.
      if (has_only_row()) {
#pragma unroll 1
        for (int pass = warp(); pass < Queries::kPasses; pass += kWarps) {
          Queries::transform_only_row(p_, key_scale_, head_, row_group_ * kRows, record(0),
                                      scales(0), pass);
        }
      }
      first_tiles();
    });
    weights.store(*query_weights());
  }

  // The queries of all warps' first runs. Each batch row is transformed once for the block, its
  // passes dealt to warps. b: the warp's batch row, or -1 if it does not begin with codes.
  __device__ __forceinline__ void first_queries(int b, int* rows) {
    const int lane = threadIdx.x & 31;
    if (has_only_row()) {
      __syncthreads();
      if (b >= 0) copy_queries(0);
      __syncthreads();
      if (b >= 0) ring_.fill();
      return;
    }
    if (lane == 0) rows[warp()] = b;
    wait_copies<1>();  // for the queries, not for the tile
    wait_for_previous_kernel();
    __syncthreads();
    const int row = lane < kWarps ? rows[lane] : -1;
    const unsigned peers = __match_any_sync(kFullWarp, row);
    const unsigned leaders = __ballot_sync(kFullWarp, row >= 0 && lane == __ffs(peers) - 1);
#pragma unroll 1
    for (int task = warp(); task < __popc(leaders) * Queries::kPasses; task += kWarps) {
      const int leader = nth_bit(leaders, task / Queries::kPasses);
      transform(__shfl_sync(kFullWarp, row, leader), leader, task % Queries::kPasses);
    }
    __syncthreads();
    const int leader = __ffs(__shfl_sync(kFullWarp, peers, warp())) - 1;
    if (b >= 0) copy_queries(leader);
    __syncthreads();
    if (b >= 0) ring_.fill();
  }

  __device__ __forceinline__ void codes(int b, const RowWork& work, int first, int last,
                                        bool is_first_run, float* record) {
    if (!is_first_run) {
      wait_copies<Traits::kStages>();  // for the queries, not for tiles
#pragma unroll 1
      for (int pass = 0; pass < Queries::kPasses; ++pass) transform(b, warp(), pass);
      __syncwarp();
    }
    if (p_.softcap == 0.f) {
      Attention<false>::run(p_, ring_, work.coded, first, last, scales(warp()), value_scale_,
                            record);
    } else {
      Attention<true>::run(p_, ring_, work.coded, first, last, scales(warp()), value_scale_,
                           record);
    }
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
  template <bool kSoftcap>
  using Attention = std::conditional_t<Traits::kWide, WideCodeAttention<Traits, kSoftcap>,
                                       CodeAttention<Traits, kSoftcap>>;

  static __device__ __forceinline__ int warp() { return threadIdx.x / 32; }
  __device__ __forceinline__ char* record(int of_warp) const {
    return shared_ + Traits::kRecordOffset + of_warp * Traits::kRecordFloats * 4;
  }
  __device__ __forceinline__ RowScale* scales(int of_warp) const {
    return reinterpret_cast<RowScale*>(shared_ + Traits::kScaleOffset) + of_warp * kRows;
  }
  // Whether there is one batch row, whose queries can be transformed before the lengths are known.
  __device__ __forceinline__ bool has_only_row() const {
    return p_.batch == 1 && p_.query_float == nullptr;
  }
  // Queries that another warp transformed.
  __device__ __forceinline__ void copy_queries(int from) const {
    if (from == warp()) return;
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = lane; i < Queries::kFragmentBytes / 16; i += 32) {
      reinterpret_cast<uint4*>(record(warp()))[i] = reinterpret_cast<const uint4*>(record(from))[i];
    }
    if (lane < kRows) scales(warp())[lane] = scales(from)[lane];
  }
  __device__ __forceinline__ void transform(int b, int of_warp, int pass) const {
    Queries::transform(p_, *query_weights(), key_scale_, b, head_, row_group_ * kRows,
                       record(of_warp), scales(of_warp), pass);
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
