// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// One warp's queries of one batch row and row group for the int8 product: transformed, rounded to
// 16-bit integers and laid out as fragments in the warp's shared memory. Done here and not by a
// kernel in front, while the first codes are on their way.
#pragma once

#include "../common/instructions.cuh"
#include "../common/transform.cuh"
#include "traits.cuh"

namespace vecinfer {

// What all warps of a block share, in shared memory: the diagonal transform and mean of its head.
template <int kHeadDim>
struct QueryWeights {
  float weight[kHeadDim];
  float mean[kHeadDim];
};

// This thread's elements of them, on their way there.
template <int kHeadDim, int kThreads>
class QueryWeightsLoad {
 public:
  __device__ __forceinline__ QueryWeightsLoad(const DecodeParams& p, int head) {
    const Transform& transform = p.key.transform;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int dim = threadIdx.x + i * kThreads, place = head * kHeadDim + dim;
      weight_[i] = 1.f;
      mean_[i] = 0.f;
      if (dim < kHeadDim && transform.kind == TransformKind::kDiagonal) {
        weight_[i] = __ldg(transform.weight + place);
      }
      if (dim < kHeadDim && transform.mean != nullptr) mean_[i] = __ldg(transform.mean + place);
    }
  }
  __device__ __forceinline__ void store(QueryWeights<kHeadDim>& target) const {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int dim = threadIdx.x + i * kThreads;
      if (dim < kHeadDim) {
        target.weight[dim] = weight_[i];
        target.mean[dim] = mean_[i];
      }
    }
  }

 private:
  static constexpr int kPerThread = (kHeadDim + kThreads - 1) / kThreads;
  float weight_[kPerThread], mean_[kPerThread];
};

template <class Traits>
class QueryRows {
  static constexpr int kHeadDim = Traits::kHeadDim;
  static constexpr int kLanes = kHeadDim / kLane;  // of one row
  static constexpr int kRowsPerPass = 32 / kLanes;

 public:
  static constexpr int kPasses = Traits::kRows / kRowsPerPass;
  static constexpr int kFragmentBytes = Traits::kRows * kHeadDim * 2;
  // Queries as given lie behind the fragments; both fit the warp's record, which is not in use yet.
  static_assert(2 * kFragmentBytes <= Traits::kRecordFloats * 4);

  // Starts to fetch the queries. Each lane copies what it will read itself.
  static __device__ __forceinline__ void issue(const DecodeParams& p, int b, int head,
                                               int first_row, char* record) {
    if (p.query_float == nullptr) {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        copy_async<16>(given(record, pass),
                       p.query_row(b, head, first_row + row_of(pass)) + first_dim());
      }
    }
  }

  // The same pass without shared memory, straight from what was given, for the only batch row.
  static __device__ __forceinline__ void transform_only_row(const DecodeParams& p, float key_scale,
                                                            int head, int first_row, char* record,
                                                            RowScale* scales, int pass) {
    const int dim = first_dim(), place = head * kHeadDim + dim;
    const Transform& transform = p.key.transform;
    const bool diagonal = transform.kind == TransformKind::kDiagonal;
    float x[kLane], weight[kLane], mean[kLane];
    unpack_states(
        __ldg(reinterpret_cast<const uint4*>(p.query_row(0, head, first_row + row_of(pass)) + dim)),
        p.bf16, x);
    load_weights(diagonal ? transform.weight + place : nullptr, 1.f, weight);
    load_weights(transform.mean != nullptr ? transform.mean + place : nullptr, 0.f, mean);
    const float mean_score = transform_lane(p, weight, mean, x);
    round(p, x, mean_score, key_scale, record, scales, pass);
  }

  // One pass over some of the rows, by any warp. Copies must have arrived, and be visible to it.
  static __device__ __forceinline__ void transform(const DecodeParams& p,
                                                   const QueryWeights<kHeadDim>& weights,
                                                   float key_scale, int b, int head, int first_row,
                                                   char* record, RowScale* scales, int pass) {
    const int dim = first_dim();
    float x[kLane];
    float mean_score;
    if (p.query_float == nullptr) {
      uint32_t words[4];
      load_shared<16>(words, given(record, pass));
      unpack_states(make_uint4(words[0], words[1], words[2], words[3]), p.bf16, x);
      mean_score = transform_lane(p, weights.weight + dim, weights.mean + dim, x);
    } else {
      const int64_t padded_row =
          static_cast<int64_t>(b * p.kv_heads + head) * p.padded_rows() + first_row + row_of(pass);
      load_weights(p.query_float + padded_row * kHeadDim + dim, 0.f, x);
      mean_score = p.row_offset[padded_row];
    }
    round(p, x, mean_score, key_scale, record, scales, pass);
  }

 private:
  // Transforms a lane's part of a row, and returns the log2 score of the key mean.
  static __device__ __forceinline__ float transform_lane(const DecodeParams& p, const float* weight,
                                                         const float* mean, float (&x)[kLane]) {
    float mean_score = 0.f;
    // Two sums, as a mean may be absent and a weight not.
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      mean_score = fmaf(x[i], mean[i], mean_score);
      x[i] *= weight[i];
    }
    hadamard_transform(x, kHeadDim);
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      mean_score += __shfl_xor_sync(kFullWarp, mean_score, distance);
    }
    return mean_score * p.softmax_scale * kLog2E;
  }

  // Rounds a row to integers and stores its fragments and scale.
  static __device__ __forceinline__ void round(const DecodeParams& p, const float (&x)[kLane],
                                               float mean_score, float key_scale, char* record,
                                               RowScale* scales, int pass) {
    const int dim = first_dim(), row = row_of(pass);
    float largest = 0.f;
#pragma unroll
    for (int i = 0; i < kLane; ++i) largest = max_nan(largest, fabsf(x[i]));
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      largest = max_nan(largest, __shfl_xor_sync(kFullWarp, largest, distance));
    }
    const float inverse = largest > 0.f ? static_cast<float>(p.query_limit) / largest : 0.f;
    uint32_t high[2] = {}, low[2] = {};
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const int value = __float2int_rn(x[i] * inverse);
      high[i / 4] |= static_cast<uint32_t>((value + 128) >> 8 & 255) << (i % 4 * 8);
      low[i / 4] |= static_cast<uint32_t>(value & 255) << (i % 4 * 8);
    }
    // Fragments: tile of 4 rows, lane, D / 4 bytes; a row's high bytes are those of lanes 8 row
    // to 8 row + 3, its low bytes those of the next 4.
    constexpr int kLaneBytes = kHeadDim / 4;
    char* fragment = record + row / kRowTile * 8 * kHeadDim + row % kRowTile * 8 * kLaneBytes + dim;
    *reinterpret_cast<uint2*>(fragment) = make_uint2(high[0], high[1]);
    *reinterpret_cast<uint2*>(fragment + 4 * kLaneBytes) = make_uint2(low[0], low[1]);
    if (dim == 0) {
      const float step = largest / p.query_limit * p.softmax_scale * kLog2E * key_scale;
      // Not 0: masked scores of -inf times this must stay -inf.
      scales[row] = {step < 1e-30f ? 1e-30f : step, mean_score};
    }
  }

  static __device__ __forceinline__ int first_dim() { return (threadIdx.x & (kLanes - 1)) * kLane; }
  static __device__ __forceinline__ int row_of(int pass) {
    return pass * kRowsPerPass + (threadIdx.x & 31) / kLanes;
  }
  static __device__ __forceinline__ uint32_t given(char* record, int pass) {
    return shared_address(record) + kFragmentBytes + (pass * 32 + (threadIdx.x & 31)) * 16;
  }
};

}  // namespace vecinfer
