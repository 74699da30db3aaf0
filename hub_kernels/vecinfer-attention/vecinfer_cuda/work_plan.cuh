// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// How one kv head's work is dealt to warps. All rows' tiles of codes, each row's exact units behind
// its tiles, form one list; every warp takes an equal, contiguous run of it. A warp thus streams
// alone, with no barrier until its end, and a batch of unequal lengths is balanced like an equal
// one. Lengths are read on the device.
//
// A segment is the coded (2 b) or the exact (2 b + 1) part of batch row b. Segments and splits meet
// along a staircase, so split + segment names the record of their meeting without collision.
#pragma once

#include "decode_attention_params.h"
#include "instructions.cuh"

namespace vecinfer {

// What batch row b holds.
struct RowWork {
  int length;
  int coded;  // tokens in codes
  int sinks;  // exact tokens at the front
  int exact;  // exact tokens in all
  int tiles;
  int units;

  __device__ RowWork(const DecodeParams& p, int b) {
    length = p.lengths[b];
    const int behind_sinks = max(0, length - p.sink_length);
    coded = min(p.quantized_lengths[b], behind_sinks);
    sinks = length - behind_sinks;
    exact = length - coded;
    tiles = (coded + kTile - 1) / kTile;
    units = (exact + kExactUnit - 1) / kExactUnit;
  }

  __device__ int span(const DecodeParams& p) const { return tiles + units * p.exact_weight; }
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

// Positions of all rows. The whole warp constructs and calls, and gets the same answers. The first
// 32 rows are kept, so that small batches read their lengths once.
class HeadPlan {
 public:
  __device__ __forceinline__ explicit HeadPlan(const DecodeParams& p) {
    const int lane = threadIdx.x & 31;
    span_ = lane < p.batch ? RowWork(p, lane).span(p) : 0;
    end_ = warp_inclusive_sum(span_);
    total_ = kept_ = __shfl_sync(kFullWarp, end_, 31);
    for (int base = 32; base < p.batch; base += 32) {
      total_ += __reduce_add_sync(kFullWarp, span(p, base + lane));
    }
  }

  __device__ __forceinline__ int total() const { return total_; }

  // The row that holds a position below the total, and its first position.
  __device__ __forceinline__ int find(const DecodeParams& p, int position, int* row_start) const {
    int base = 0, start = 0, own = span_, end = end_;
    for (;;) {
      const unsigned past = __ballot_sync(kFullWarp, end > position);
      if (past != 0) {
        const int owner = __ffs(past) - 1;
        *row_start = __shfl_sync(kFullWarp, end - own, owner);
        return base + owner;
      }
      start = __shfl_sync(kFullWarp, end, 31);
      base += 32;
      own = span(p, base + (threadIdx.x & 31));
      end = start + warp_inclusive_sum(own);
    }
  }

  // First position of a row.
  __device__ __forceinline__ int row_start(const DecodeParams& p, int row) const {
    if (row < 32) return __shfl_sync(kFullWarp, end_ - span_, row);
    int start = kept_;
    for (int base = 32; base < row; base += 32) {
      const int b = base + (threadIdx.x & 31);
      start += __reduce_add_sync(kFullWarp, b < row ? span(p, b) : 0);
    }
    return start;
  }

 private:
  static __device__ __forceinline__ int span(const DecodeParams& p, int b) {
    return b < p.batch ? RowWork(p, b).span(p) : 0;
  }

  int span_;  // of row `lane`
  int end_;   // position behind it
  int kept_;  // of the first 32 rows
  int total_;
};

}  // namespace vecinfer
