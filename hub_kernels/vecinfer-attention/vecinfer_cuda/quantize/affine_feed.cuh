// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Tokens of stream_kernel.cuh whose transform is not a full matrix: whole tokens a step, from
// global memory to registers, a lane with 8 elements of a token, to fixed point.
#pragma once

#include "block.cuh"
#include "chunk_transform.cuh"
#include "stream_layout.cuh"

namespace vecinfer {

template <int kDim, int kHeadDim>
struct AffineStep {
  static constexpr int kLanes = kHeadDim / kLane;    // that share a token
  static constexpr int kPasses = kDim == 8 ? 2 : 1;  // of 8 elements a lane: whole searches
  static constexpr int kPassTokens = 32 / kLanes;
  static constexpr int kTokens = kPasses * kPassTokens;
  static constexpr int kElements = kTokens * kHeadDim;
  static constexpr int kSteps = kTile / kTokens;  // of a tile
};

// Goes through a warp's tokens, pass by pass, tile by tile.
template <class Step>
class TokenCursor {
 public:
  // states: of the head's token 0. Tiles first_tile, first_tile + stride..
  __device__ __forceinline__ TokenCursor(const uint16_t* states, const StatesView& view, int start,
                                         int count, int first, int num_tokens, int first_tile,
                                         int tile_stride)
      : stride_(view.token_stride), aligned_(view.aligned), jump_((tile_stride - 1) * kTile) {
    const int lane = threadIdx.x & 31;
    token_ = first_tile * kTile - start + first + lane / Step::kLanes;
    least_ = max(first, 0);
    end_ = min(first + count, num_tokens);
    source_ = states + lane % Step::kLanes * kLane;
  }

  // This lane's 8 elements of the next pass; zeros where no token is to be written.
  __device__ __forceinline__ uint4 next() {
    uint4 stored = make_uint4(0, 0, 0, 0);
    if (token_ >= least_ && token_ < end_) {
      stored = load_stored(source_ + token_ * stride_, aligned_);
    }
    token_ += Step::kPassTokens;
    if (++pass_ == kTile / Step::kPassTokens) pass_ = 0, token_ += jump_;
    return stored;
  }

 private:
  const uint16_t* source_;
  int64_t stride_;
  bool aligned_;
  int jump_, token_, least_, end_, pass_ = 0;
};

// A step's tokens as they are stored, and those behind them on their way.
template <class Step>
class StoredTokens {
 public:
  __device__ __forceinline__ explicit StoredTokens(const TokenCursor<Step>& cursor)
      : cursor_(cursor) {
#pragma unroll
    for (int pass = 0; pass < Step::kPasses; ++pass) words_[pass] = cursor_.next();
  }
  // Of one pass; asks for what takes its place.
  __device__ __forceinline__ uint4 take(int pass) {
    const uint4 stored = words_[pass];
    words_[pass] = cursor_.next();
    return stored;
  }

 private:
  TokenCursor<Step> cursor_;
  uint4 words_[Step::kPasses];
};

// A step's tokens on their way to fixed point, in as many stages as a search has parts.
template <int kDim, int kHeadDim, bool kHadamard, bool kBf16>
class ComingAffine {
  using Step = AffineStep<kDim, kHeadDim>;

 public:
  static constexpr int kStages = kQuantizeTiles / 4;

  // affine: of prepare_affine. fixed: where the step's rows go.
  __device__ __forceinline__ ComingAffine(StoredTokens<Step>& stored, const float* affine,
                                          __half* fixed)
      : stored_(stored), affine_(affine), fixed_(fixed) {}

  // To be called with 0 to kStages - 1, in this order.
  __device__ __forceinline__ void operator()(int index) {
    constexpr int kOfPass = kStages / Step::kPasses;
    const int pass = index / kOfPass;
#pragma unroll
    for (int i = 0; i < Step::kPasses; ++i) {
      const int stage = index % kOfPass * Step::kPasses + i;
      if (stage == 0) {
        unpack_states(stored_.take(pass), kBf16, x_[0]);
        affine();
      } else if (stage == kStages - 1) {
        store(pass);
      } else if constexpr (kHadamard) {
        if (stage == 1) {
          hadamard_in_lane(x_);
        } else if (1 << (stage - 2) < Step::kLanes) {
          hadamard_across(x_, 1 << (stage - 2));
        }
      }
    }
  }

  // Whether a sub-vector is far; the same answer for all lanes.
  __device__ __forceinline__ bool far() const { return far_.found(); }

 private:
  static_assert(1 << (kStages - 3) >= Step::kLanes, "a stage for every butterfly");

  __device__ __forceinline__ void affine() {
    const float* own = affine_ + (threadIdx.x & 31) % Step::kLanes * kLane;
#pragma unroll
    for (int i = 0; i < kLane; i += 4) {
      const float4 a = *reinterpret_cast<const float4*>(own + i);
      const float4 b = *reinterpret_cast<const float4*>(own + kHeadDim + i);
      float* x = x_[0] + i;
      x[0] = fmaf(x[0], a.x, b.x), x[1] = fmaf(x[1], a.y, b.y);
      x[2] = fmaf(x[2], a.z, b.z), x[3] = fmaf(x[3], a.w, b.w);
    }
  }

  __device__ __forceinline__ void store(int pass) {
    __half2 k[kLane / 2];
#pragma unroll
    for (int j = 0; j < kLane / 2; ++j) k[j] = to_fixed2_unclamped(x_[0][2 * j], x_[0][2 * j + 1]);
    far_.template look<kLane / kDim>(k);
    reinterpret_cast<uint4*>(fixed_)[pass * 32 + (threadIdx.x & 31)] =
        *reinterpret_cast<const uint4*>(k);
  }

  StoredTokens<Step>& stored_;
  const float* affine_;
  __half* fixed_;
  float x_[1][kLane];
  FarDetector<kDim> far_;
};

// What stream_kernel.cuh asks of its tokens.
template <int kDim, int kHeadDim, bool kHadamard, bool kBf16>
class AffineFeed {
 public:
  using Step = AffineStep<kDim, kHeadDim>;
  using Coming = ComingAffine<kDim, kHeadDim, kHadamard, kBf16>;

  __device__ __forceinline__ AffineFeed(const QuantizeParams& p, const QuantizeBlock& place,
                                        const StreamMemory& memory, int first_tile, int warps)
      : stored_(TokenCursor<Step>(place.states(p), p.states[place.side_index], place.start,
                                  place.count, place.first_token, p.num_tokens, first_tile, warps)),
        affine_(memory.shift) {}

  // The next step's tokens on their way to `fixed`.
  __device__ __forceinline__ Coming coming(__half* fixed) {
    return Coming(stored_, affine_, fixed);
  }
  // Ends the step; whether one of its sub-vectors is far.
  __device__ __forceinline__ bool finish(const Coming& coming, const __half*) {
    const bool far = coming.far();
    __syncwarp();
    return far;
  }

 private:
  StoredTokens<Step> stored_;
  const float* affine_;
};

}  // namespace vecinfer
