// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Tokens of stream_kernel.cuh whose transform is a full matrix that stays in shared memory, of
// bf16 states: 16 tokens at a time, some columns of the product a step.
#pragma once

#include "block.cuh"
#include "chunk_transform.cuh"
#include "stream_layout.cuh"

namespace vecinfer {

template <int kDim, int kHeadDim>
struct MatrixStep {
  static constexpr int kColumns = kDim == 8 ? 32 : 16;  // whole searches
  static constexpr int kElements = kChunk * kColumns;
  static constexpr int kSlices = kHeadDim / kColumns;
  static constexpr int kSteps = kTile / kChunk * kSlices;  // of a tile
  static_assert(kChunk == FullTransform::kTokens);
};

// A step's columns, a share of the inner dimension beside each of a search's parts.
template <int kDim, int kHeadDim>
class ComingColumns {
  using Step = MatrixStep<kDim, kHeadDim>;
  static constexpr int kBlocks = Step::kColumns / 8;
  static constexpr int kInner = kHeadDim / 16;

 public:
  static constexpr int kStages = kQuantizeTiles / 4;

  // rows: address of what the lane gives to load_matrices. matrix: of the step's first column, for
  // this lane.
  __device__ __forceinline__ ComingColumns(uint32_t rows, const uint4* matrix, const float* shift,
                                           float steps, __half* fixed)
      : rows_(rows), matrix_(matrix), shift_(shift), steps_(steps), fixed_(fixed) {}

  // To be called with 0 to kStages - 1, in this order.
  __device__ __forceinline__ void operator()(int stage) {
#pragma unroll
    for (int inner = 0; inner < kInner; ++inner) {
      // In all stages but the last, which wants the sums.
      if (max(inner - max(kInner - (kStages - 1), 0), 0) == stage) multiply(inner);
    }
    if (stage == kStages - 1) store();
  }

 private:
  __device__ __forceinline__ void multiply(int inner) {
    uint32_t rows[4];
    load_matrices(rows_ + inner * 32, rows);
    uint4 weight[kBlocks];
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      weight[block] = matrix_[(block * kInner + inner) * 32];
    }
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      HalfPair<true>::mma(sum_[block], rows[0], rows[1], rows[2], rows[3], weight[block].x,
                          weight[block].y);
    }
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      HalfPair<true>::mma(sum_[block], rows[0], rows[1], rows[2], rows[3], weight[block].z,
                          weight[block].w);
    }
  }

  __device__ __forceinline__ void store() {
    const int line = (threadIdx.x & 31) >> 2, quad = threadIdx.x & 3;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int column = block * 8 + quad * 2;
      const float2 shift = *reinterpret_cast<const float2*>(shift_ + column);
      const float (&y)[4] = sum_[block];
      __half2* target = reinterpret_cast<__half2*>(fixed_ + line * Step::kColumns + column);
      target[0] = to_fixed2_unclamped(fmaf(y[0], steps_, shift.x), fmaf(y[1], steps_, shift.y));
      target[4 * Step::kColumns] =
          to_fixed2_unclamped(fmaf(y[2], steps_, shift.x), fmaf(y[3], steps_, shift.y));
    }
  }

  uint32_t rows_;
  const uint4* matrix_;
  const float* shift_;
  float steps_;
  __half* fixed_;
  float sum_[kBlocks][4] = {};
};

// What stream_kernel.cuh asks of its tokens.
template <int kDim, int kHeadDim>
class MatrixFeed {
 public:
  using Step = MatrixStep<kDim, kHeadDim>;
  using Coming = ComingColumns<kDim, kHeadDim>;
  static constexpr int kRawStride = StreamLayout::raw_stride(kHeadDim);

  __device__ __forceinline__ MatrixFeed(const QuantizeParams& p, const QuantizeBlock& place,
                                        const StreamMemory& memory, int first_tile, int warps)
      : p_(p),
        place_(place),
        map_(kHeadDim),
        raw_(memory.raw),
        matrix_(memory.matrix + (threadIdx.x & 31)),
        shift_(memory.shift),
        steps_(memory.steps),
        tile_(first_tile),
        warps_(warps) {
    fetch();
  }

  __device__ __forceinline__ Coming coming(__half* fixed) {
    if (slice_ == 0) {
      wait_copies<0>();
      __syncwarp();
    }
    const int lane = threadIdx.x & 31;
    const uint32_t rows = shared_address(raw_) + (lane & 15) * kRawStride + (lane >> 4) * 16;
    constexpr int kWords = Step::kColumns / 8 * (kHeadDim / 16) * 32;  // of a step's matrix
    return Coming(rows, matrix_ + slice_ * kWords, shift_ + slice_ * Step::kColumns, steps_, fixed);
  }
  // Ends the step; whether one of its sub-vectors is far.
  __device__ __forceinline__ bool finish(const Coming&, const __half* fixed) {
    __syncwarp();
    if (++slice_ == Step::kSlices) {
      slice_ = 0;
      first_in_tile_ += kChunk;
      if (first_in_tile_ == kTile) first_in_tile_ = 0, tile_ += warps_;
      fetch();
    }
    return any_far<kDim>(fixed, Step::kElements);
  }
  // Which of a tile's sub-vectors, counted token by token, is the i-th to be searched.
  static __device__ __forceinline__ int tile_row(int i) {
    constexpr int kSubvectors = Step::kColumns / kDim, kRows = kChunk * kSubvectors;
    const int step = i / kRows, row = i % kRows;
    const int token = step / Step::kSlices * kChunk + row / kSubvectors;
    return token * (kHeadDim / kDim) + step % Step::kSlices * kSubvectors + row % kSubvectors;
  }

 private:
  __device__ __forceinline__ void fetch() {
    if (tile_ >= place_.end_tile) return;
    fetch_chunk(place_.states(p_), p_.states[place_.side_index], map_, place_.tile(p_, tile_),
                first_in_tile_, raw_, kRawStride);
  }

  const QuantizeParams& p_;
  const QuantizeBlock& place_;
  LaneMap map_;
  uint8_t* raw_;
  const uint4* matrix_;
  const float* shift_;
  float steps_;
  int tile_, warps_, first_in_tile_ = 0, slice_ = 0;
};

}  // namespace vecinfer
