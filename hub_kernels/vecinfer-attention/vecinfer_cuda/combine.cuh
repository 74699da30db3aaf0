// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The kernel behind decode attention: merges a row's records by their maxima, brings the coded part
// back from the values' transformed space, adds the exact part and the attention sink, and
// normalises.
#pragma once

#include "hadamard.cuh"
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

// What a thread has gathered of its dimension: sums and weights of the coded and the exact part,
// one maximum.
struct Gathered {
  float maximum = -INFINITY;
  float sum[2] = {0.f, 0.f};
  float weight[2] = {0.f, 0.f};

  __device__ __forceinline__ void scale(float factor) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] *= factor;
      weight[i] *= factor;
    }
  }
  __device__ __forceinline__ void raise(float reference) {
    if (reference > maximum) {
      scale(rescale(maximum, reference));
      maximum = reference;
    }
  }
  __device__ __forceinline__ void add(int part, float record_maximum, float x, float w) {
    if (record_maximum == -INFINITY) return;  // the rest of an empty record holds anything
    const float factor = exp2_approx(record_maximum - maximum);
    sum[part] = fmaf(factor, x, sum[part]);
    weight[part] = fmaf(factor, w, weight[part]);
  }
};

// Grid (rows, Hkv, B), block (D rounded up to 32, slices): slices share the records. Shared memory:
// blockDim.x * (1 + 5 slices) floats.
__global__ void combine_kernel(const __grid_constant__ DecodeParams p) {
  extern __shared__ float shared[];
  const int dim = threadIdx.x, slice = threadIdx.y;
  const int row = blockIdx.x, head = blockIdx.y, b = blockIdx.z;
  const int dims = p.head_dim, columns = blockDim.x;
  const int safe_dim = min(dim, dims - 1);  // threads past the end keep warps whole
  const int row_group = row / p.rows_per_group, local_row = row % p.rows_per_group;

  const HeadPlan plan(p);
  const RowWork work(p, b);
  const Deal deal(plan.total(), p.splits * p.warps);
  const int row_start = plan.row_start(p, b) + p.start_weight;
  const int exact_start = row_start + work.tiles;
  const SegmentRecords coded(p, deal, 2 * b, row_start, exact_start - 1);
  const SegmentRecords exact(p, deal, 2 * b + 1, exact_start,
                             exact_start + (work.units - 1) * p.exact_weight);
  const float* records = p.records + static_cast<int64_t>(head * p.row_groups + row_group) *
                                         p.slots() * p.record_floats();
  wait_for_previous_kernel();

  Gathered gathered;
  const int total = coded.count + exact.count;
  constexpr int kBatch =
      6;  // records in flight: 16 splits and some exact ones in one round of 4 slices
  const int floats = p.record_floats(), maxima = p.rows_per_group * dims + local_row;
#pragma unroll 1
  for (int first = slice; first < total; first += kBatch * blockDim.y) {
    float maximum[kBatch], weight[kBatch], x[kBatch];
    float reference = gathered.maximum;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int index = first + i * static_cast<int>(blockDim.y);
      const int slot =
          index < coded.count ? coded.first + index : exact.first + index - coded.count;
      const float* record = records + static_cast<int64_t>(slot) * floats;
      maximum[i] = -INFINITY;
      weight[i] = x[i] = 0.f;
      const bool missing =
          index >= coded.count && has_no_unit(p, deal, slot - (2 * b + 1), exact_start, work.units);
      if (index < total && !missing) {
        maximum[i] = record[maxima];
        weight[i] = record[maxima + p.rows_per_group];
        x[i] = record[local_row * dims + safe_dim];
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) reference = fmaxf(reference, maximum[i]);
    gathered.raise(reference);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int part = first + i * static_cast<int>(blockDim.y) >= coded.count;
      gathered.add(part, maximum[i], x[i], weight[i]);
    }
  }

  if (blockDim.y > 1) {
    float* other = shared + columns;
    const int stride = blockDim.y * columns;
    const int place = slice * columns + dim;
    other[place] = gathered.maximum;
    for (int i = 0; i < 2; ++i) {
      other[(1 + i) * stride + place] = gathered.sum[i];
      other[(3 + i) * stride + place] = gathered.weight[i];
    }
    __syncthreads();
    if (slice == 0) {
#pragma unroll 1
      for (int s = 1; s < static_cast<int>(blockDim.y); ++s) {
        const float* theirs = other + s * columns + dim;
        gathered.raise(theirs[0]);
        gathered.add(0, theirs[0], theirs[stride], theirs[3 * stride]);
        gathered.add(1, theirs[0], theirs[2 * stride], theirs[4 * stride]);
      }
    }
  }

  const int query_head = head * p.group + row / p.query_tokens;
  float total_weight = gathered.weight[0] + gathered.weight[1];
  if (p.attention_sinks != nullptr) {
    const float sink = p.attention_sinks[query_head] * kLog2E;
    gathered.raise(sink);
    total_weight = gathered.weight[0] + gathered.weight[1] + rescale(sink, gathered.maximum);
  }
  // A row without tokens: zeros, and a log-sum-exp of -inf.
  const float inverse = total_weight == 0.f ? 0.f : 1.f / total_weight;
  float out = gathered.sum[0] * inverse;

  const Transform& transform = p.value.transform;
  if (transform.kind == TransformKind::kDiagonal) {
    const int block = hadamard_block(dims);
    for (int stride = 1; stride < block; stride *= 2) {
      __syncthreads();
      if (slice == 0) shared[dim] = out;
      __syncthreads();
      if (slice == 0) out = shared[dim ^ stride] + ((dim & stride) ? -out : out);
    }
    out *= rsqrtf(static_cast<float>(block)) * transform.weight[head * dims + safe_dim];
  } else if (transform.kind == TransformKind::kFull) {
    __syncthreads();
    if (slice == 0) shared[dim] = out;
    __syncthreads();
    const float* weight = transform.weight + static_cast<int64_t>(head) * dims * dims + safe_dim;
    out = 0.f;
    for (int i = 0; i < dims; ++i) out = fmaf(shared[i], __ldg(weight + i * dims), out);
  }
  if (slice != 0 || dim >= dims) return;
  if (transform.mean != nullptr) {
    out = fmaf(transform.mean[head * dims + dim], gathered.weight[0] * inverse, out);
  }
  out = fmaf(gathered.sum[1], inverse, out);

  const int64_t out_row =
      (static_cast<int64_t>(b) * p.kv_heads + head) * p.rows + row;  // = [B, Hq, Tq]
  if (p.bf16) {
    static_cast<__nv_bfloat16*>(p.out)[out_row * dims + dim] = __float2bfloat16_rn(out);
  } else {
    static_cast<__half*>(p.out)[out_row * dims + dim] = __float2half_rn(out);
  }
  if (dim == 0) {
    p.lse[out_row] = (gathered.maximum + log2f(total_weight)) / kLog2E;
  }
}

}  // namespace vecinfer
