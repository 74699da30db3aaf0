// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// How one kv head's work is dealt to warps. All rows' tiles of codes, each row's exact units behind
// its tiles, form one list; every warp takes an equal, contiguous run of it. A warp thus streams
// alone, with no barrier until its end, and a batch of unequal lengths is balanced like an equal
// one. Lengths are read on the device.
//
// Segments and splits meet along a staircase, so split + segment is the number of their record and
// no two have the same. Words: params.h.
#pragma once

#include "../common/instructions.cuh"
#include "params.h"

namespace vecinfer {

// What batch row b holds.
struct RowWork {
  int length;
  int coded;  // tokens in codes
  int sinks;  // exact tokens at the front
  int exact;  // exact tokens in all
  int tiles;
  int units;

  __device__ RowWork(const DecodeParams& p, int b)
      : RowWork(p, p.lengths[b], p.quantized_lengths[b]) {}
  __device__ RowWork(const DecodeParams& p, int row_length, int quantized) : length(row_length) {
    const int behind_sinks = max(0, length - p.sink_length);
    coded = min(quantized, behind_sinks);
    sinks = length - behind_sinks;
    exact = length - coded;
    tiles = (coded + kTile - 1) / kTile;
    units = (exact + kExactUnit - 1) / kExactUnit;
  }

  // Positions of the list: some that hold nothing, as starting a row takes time, then those of the
  // tiles, then those of the exact units.
  __device__ int span(const DecodeParams& p) const {
    return p.start_weight + tiles + units * p.exact_weight;
  }
};

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Exact units that start in positions [begin, end), counted from the segment's first position.
struct UnitRange {
  int first, last;

  __device__ UnitRange(int begin, int end, int units, int weight)
      : first(ceil_div(max(begin, 0), weight)), last(min(units, ceil_div(max(end, 0), weight))) {}
  __device__ bool empty() const { return first >= last; }
};

// Equal runs of `total` positions over `parts` warps.
struct Deal {
  int per, extra;

  __device__ Deal(int total, int parts)
      : per(static_cast<unsigned>(total) / static_cast<unsigned>(parts)),
        extra(total - per * parts) {}
  __device__ int begin(int part) const { return part * per + min(part, extra); }
  // The part that holds a position.
  __device__ int owner(int position) const {
    const int large = extra * (per + 1);
    return position < large ? position / (per + 1) : extra + (position - large) / per;
  }
};

__device__ __forceinline__ int warp_inclusive_sum(int x) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(kFullWarp, x, distance);
    if (lane >= distance) x += other;
  }
  return x;
}

// Positions of all rows; each lane keeps those of a run of rows. The whole warp constructs and
// calls, and gets the same answers.
class HeadPlan {
 public:
  // Asks for the lengths of each lane's first row; finish() waits for them.
  __device__ __forceinline__ explicit HeadPlan(const DecodeParams& p)
      : per_lane_(static_cast<unsigned>(p.batch + 31) / 32u) {
    const int first = min((threadIdx.x & 31) * per_lane_, p.batch - 1);
    length_ = load_early(p.lengths + first);
    quantized_ = load_early(p.quantized_lengths + first);
  }

  __device__ __forceinline__ void finish(const DecodeParams& p) {
    const int first = (threadIdx.x & 31) * per_lane_;
    const int last = min(first + per_lane_, p.batch);
    span_ = first < last ? RowWork(p, length_, quantized_).span(p) : 0;
#pragma unroll 4
    for (int b = first + 1; b < last; ++b) span_ += RowWork(p, b).span(p);
    end_ = warp_inclusive_sum(span_);
    total_ = __shfl_sync(kFullWarp, end_, 31);
  }

  __device__ __forceinline__ int total() const { return total_; }

  // The row that holds a position below the total, and its first position.
  __device__ __forceinline__ int find(const DecodeParams& p, int position, int* row_start) const {
    const int lane = __ffs(__ballot_sync(kFullWarp, end_ > position)) - 1;
    int start = __shfl_sync(kFullWarp, end_ - span_, lane), row = lane * per_lane_;
    if (per_lane_ > 1) {
      for (int span; position >= start + (span = RowWork(p, row).span(p)); ++row) start += span;
    }
    *row_start = start;
    return row;
  }

  // First position of a row.
  __device__ __forceinline__ int row_start(const DecodeParams& p, int row) const {
    const int lane = static_cast<unsigned>(row) / static_cast<unsigned>(per_lane_);
    int start = __shfl_sync(kFullWarp, end_ - span_, lane);
    for (int b = lane * per_lane_; b < row; ++b) start += RowWork(p, b).span(p);
    return start;
  }

 private:
  int per_lane_;
  int length_, quantized_;
  int span_;  // of this lane's rows
  int end_;   // position behind them
  int total_;
};

}  // namespace vecinfer
