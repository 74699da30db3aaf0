// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// A row's records for the combining kernel: which ones there are, and their sum by one warp.
#pragma once

#include "softmax_state.cuh"
#include "work_plan.cuh"

namespace vecinfer {

// The records of one segment lie in a row: one for each split in which a part of it may lie.
struct SegmentRecords {
  int first;
  int count;

  // Its items start in positions begin..last_item; empty segments have no records.
  __device__ SegmentRecords(const DecodeParams& p, const Deal& deal, int segment, int begin,
                            int last_item)
      : first(0), count(0) {
    if (last_item < begin) return;
    const int split = deal.owner(begin) / p.warps;
    first = split + segment;
    count = deal.owner(last_item) / p.warps - split + 1;
  }
};

// Whether a split writes no record of a row's exact part: it lies within a unit that an earlier one
// works on. That takes a split shorter than a unit.
__device__ __forceinline__ bool has_no_unit(const DecodeParams& p, const Deal& deal, int split,
                                            int exact_start, int units) {
  if (deal.per * p.warps >= p.exact_weight) return false;
  return UnitRange(deal.begin(split * p.warps) - exact_start,
                   deal.begin((split + 1) * p.warps) - exact_start, units, p.exact_weight)
      .empty();
}

// What a warp has gathered of its row, each lane for dimensions lane, lane + 32, ...: sums and
// weights of the coded and the exact part, one maximum.
template <int kLaneDims>
struct Gathered {
  float maximum = -INFINITY;
  float weight[2] = {0.f, 0.f};
  float sum[2][kLaneDims] = {};

  __device__ __forceinline__ void raise(float reference) {
    if (!(reference > maximum)) return;
    const float factor = rescale(maximum, reference);
    maximum = reference;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      weight[part] *= factor;
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) sum[part][i] *= factor;
    }
  }
  __device__ __forceinline__ void add(int part, float record_maximum, float w,
                                      const float (&x)[kLaneDims]) {
    if (record_maximum == -INFINITY) return;  // the rest of an empty record holds anything
    const float factor = exp2_approx(record_maximum - maximum);
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      if (p != part) continue;
      weight[p] = fmaf(factor, w, weight[p]);
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) sum[p][i] = fmaf(factor, x[i], sum[p][i]);
    }
  }
};

// x := x H in blocks that divide head_dim, without the factor that makes H orthonormal.
template <int kLaneDims>
__device__ __forceinline__ void hadamard_across_lanes(float (&x)[kLaneDims], int block) {
  const int lane = threadIdx.x;
#pragma unroll
  for (int stride = 1; stride < 32; stride *= 2) {
    if (stride >= block) break;
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) {
      const float other = __shfl_xor_sync(kFullWarp, x[i], stride);
      x[i] = other + ((lane & stride) ? -x[i] : x[i]);
    }
  }
#pragma unroll
  for (int step = 1; step < kLaneDims; step *= 2) {
    if (step * 32 >= block) break;
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) {
      if ((i & step) == 0 && i + step < kLaneDims) {
        const float low = x[i], high = x[i + step];
        x[i] = low + high;
        x[i + step] = low - high;
      }
    }
  }
}

}  // namespace vecinfer
