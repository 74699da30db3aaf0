// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The main kernel of decode_attention: a block per (kv head, row group, split). Its warps stream their runs of the work
// list alone; a barrier at the end merges what parts of a segment its warps left, one record per (segment, split) goes
// to global memory, and combine.cuh does the rest.
#pragma once

#include "softmax_state.cuh"
#include "work_plan.cuh"

namespace vecinfer {

// Where the block keeps what its warps leave behind: of each warp at most one part of a segment that an earlier warp
// began, and at most one that it began itself and could not finish. The last of them stays in the warp's record in
// shared memory; a first one that is followed by other work is spilled.
template <int kWarps>
struct BlockParts {
  int continued[kWarps];  // segment, or -1
  int begun[kWarps];
  int spilled[kWarps];    // the continued part lies in global memory
};

// A block's place in the grid.
struct BlockPlace {
  int head, row_group, split, pair;  // pair: (kv head, row group)

  __device__ explicit BlockPlace(const DecodeParams& p) {
    pair = blockIdx.x / p.splits;
    split = blockIdx.x - pair * p.splits;
    head = pair / p.row_groups;
    row_group = pair - head * p.row_groups;
  }
};

__device__ __forceinline__ float* global_record(const DecodeParams& p, const BlockPlace& place,
                                                int segment) {
  return p.records + (static_cast<int64_t>(place.pair) * p.slots() + place.split + segment) *
                         p.record_floats();
}

// Merges the parts of the segments that cross this block's warps. The parts of a segment lie in a row: the one that
// began it (unless an earlier block did), then those that continued it.
template <int kWarps>
__device__ __forceinline__ void merge_parts(const DecodeParams& p, const BlockPlace& place,
                                            const BlockParts<kWarps>& parts, const float* records,
                                            const float* spill) {
  const int rows = p.rows_per_group, dims = p.head_dim, floats = p.record_floats();
#pragma unroll 1
  for (int leader = -1; leader < kWarps; ++leader) {
    int segment;
    if (leader >= 0) {
      segment = parts.begun[leader];
    } else {
      segment = -1;
      for (int warp = kWarps - 1; warp >= 0; --warp) {
        // The first continued part belongs to an earlier block unless a warp here began its segment.
        if (parts.continued[warp] >= 0) segment = parts.continued[warp];
      }
      for (int warp = 0; warp < kWarps; ++warp) {
        if (segment == parts.begun[warp]) segment = -1;
      }
    }
    if (segment < 0) continue;
    float* target = global_record(p, place, segment);
    for (int i = threadIdx.x; i < rows * dims; i += kWarps * 32) {
      const int lane = i & 31, element = i >> 5, per_lane = dims / 8;
      const int row = element / per_lane * 4 + (lane & 3);
      const int dim = (lane >> 2) * per_lane + element % per_lane;
      const float* source[kWarps];
      float maximum = leader >= 0 ? records[leader * floats + rows * dims + row] : -INFINITY;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        source[warp] = (parts.spilled[warp] ? spill : records) + warp * floats;
        if (parts.continued[warp] == segment) {
          maximum = fmaxf(maximum, source[warp][rows * dims + row]);
        }
      }
      float sum = 0.f, weight = 0.f;
      if (leader >= 0) {
        const float* part = records + leader * floats;
        const float factor = rescale(part[rows * dims + row], maximum);
        sum = factor * part[i];
        weight = factor * part[rows * dims + rows + row];
      }
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        if (parts.continued[warp] == segment) {
          const float factor = rescale(source[warp][rows * dims + row], maximum);
          sum = fmaf(factor, source[warp][i], sum);
          weight = fmaf(factor, source[warp][rows * dims + rows + row], weight);
        }
      }
      target[row * dims + dim] = sum;
      if (dim == 0) {
        target[rows * dims + row] = maximum;
        target[rows * dims + rows + row] = weight;
      }
    }
  }
}

// One warp's record, copied to global memory: as it is (spilled) or in plain order (a whole segment).
template <bool kPlain>
__device__ __forceinline__ void copy_record(const DecodeParams& p, const float* record,
                                            float* target) {
  const int rows = p.rows_per_group, dims = p.head_dim, per_lane = dims / 8;
  const int lane = threadIdx.x & 31;
  for (int element = 0; element < rows * dims / 32; ++element) {
    const int row = element / per_lane * 4 + (lane & 3);
    const int dim = (lane >> 2) * per_lane + element % per_lane;
    target[kPlain ? row * dims + dim : element * 32 + lane] = record[element * 32 + lane];
  }
  if (lane < 2 * rows) target[rows * dims + lane] = record[rows * dims + lane];
  __syncwarp();
}

// kEngine: how a warp treats tiles and exact units (see decode_attention_fast.cuh, decode_attention_general.cuh).
template <class Engine>
__device__ __forceinline__ void decode_block(const DecodeParams& p, char* shared) {
  constexpr int kWarps = Engine::kWarps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const BlockPlace place(p);
  launch_dependents();

  float* records = reinterpret_cast<float*>(shared + Engine::kRecordOffset);
  auto& parts = *reinterpret_cast<BlockParts<kWarps>*>(shared + Engine::kMetaOffset);
  float* record = records + warp * p.record_floats();
  float* spill = p.spill + static_cast<int64_t>(blockIdx.x) * kWarps * p.record_floats();

  HeadPlan plan(p, 0);
  const Deal deal(plan.total, p.splits * kWarps);
  int position = deal.begin(place.split * kWarps + warp);
  const int end = deal.begin(place.split * kWarps + warp + 1);
  int b = position < end ? plan.find(p, position) : 0;
  int row_start = plan.row_start;

  Engine engine(p, place.head, place.row_group, shared);
  bool prefetched = false;
  if (position < end) {
    const RowWork work(p, b);
    prefetched = position - row_start < work.tiles;
    if (prefetched) engine.prefetch(b, position - row_start, min(work.tiles, end - row_start));
  }
  engine.prepare();
  if (lane == 0) {
    parts.continued[warp] = -1;
    parts.begun[warp] = -1;
    parts.spilled[warp] = 0;
  }
  wait_for_previous_kernel();
  __syncthreads();

  const auto finish = [&](int segment, bool starts, bool ends, bool more) {
    if (starts && ends) {
      copy_record<true>(p, record, global_record(p, place, segment));
    } else if (starts) {
      if (lane == 0) parts.begun[warp] = segment;
    } else {
      if (more) copy_record<false>(p, record, spill + warp * p.record_floats());
      if (lane == 0) {
        parts.continued[warp] = segment;
        parts.spilled[warp] = more;
      }
    }
  };
#pragma unroll 1
  while (position < end) {
    const RowWork work(p, b);
    const int first = position - row_start;
    if (first < work.tiles) {
      const int last = min(work.tiles, end - row_start);
      if (!prefetched) engine.prefetch(b, first, last);
      prefetched = false;
      engine.codes(b, work, first, last, record);
      finish(2 * b, first == 0, last == work.tiles, row_start + last < end);
      position = row_start + last;
    }
    if (position < end) {
      const int exact_start = row_start + work.tiles;
      const UnitRange units(position - exact_start, end - exact_start, work.units, p.exact_weight);
      row_start += work.span(p);
      if (!units.empty()) {
        engine.exact(b, work, units.first, units.last, record);
        finish(2 * b + 1, units.first == 0, units.last == work.units, row_start < end);
      }
      position = row_start;
      ++b;
    }
  }
  __syncthreads();
  merge_parts<kWarps>(p, place, parts, records, spill);
}

}  // namespace vecinfer
