// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The main kernel of decode_attention: a block per (split, row group, kv head). Its warps stream
// their runs of the work list alone; a barrier at the end merges what parts of a segment its warps
// left, one record per (segment, split) goes to global memory, and combine.cuh does the rest.
#pragma once

#include "softmax_state.cuh"
#include "work_plan.cuh"

namespace vecinfer {

// Where the block keeps what its warps leave behind. Piece w is the part of a segment that warp w
// continued after an earlier warp, piece kWarps + w one that it began itself and could not finish;
// each warp has at most one of either. The last of them stays in the warp's record in shared
// memory; a first one that is followed by other work is set aside.
template <int kWarps, int kRows>
struct BlockPieces {
  static constexpr int kPieces = 2 * kWarps;
  float factor[kPieces][kRows];  // brings the piece to its segment's maximum
  float weight[kPieces][kRows];  // times that factor
  int segment[kPieces];          // or -1
  int set_aside[kWarps];         // the continued piece is not in the warp's record
};

// A block's place in the grid (splits, row groups, kv heads).
struct BlockPlace {
  int split, row_group, head, pair;

  __device__ BlockPlace()
      : split(blockIdx.x),
        row_group(blockIdx.y),
        head(blockIdx.z),
        pair(blockIdx.z * gridDim.y + blockIdx.y) {}
};

// What the engine knows at compile time.
template <class Engine>
struct RecordShape {
  int rows = Engine::kRows;
  int dims;

  __device__ __forceinline__ explicit RecordShape(const DecodeParams& p)
      : dims(Engine::kHeadDim > 0 ? Engine::kHeadDim : p.head_dim) {}
  __device__ __forceinline__ int sums() const { return rows * dims; }
  __device__ __forceinline__ int floats() const { return rows * (dims + 2); }
  // Place in the plain order of a global record of element i of a record in shared memory.
  __device__ __forceinline__ int plain(int i) const {
    const int lane = i & 31, element = i >> 5, per_lane = dims / 8;
    const int tile = element / per_lane;
    return (tile * 4 + (lane & 3)) * dims + (lane >> 2) * per_lane + element - tile * per_lane;
  }
  __device__ __forceinline__ int row(int i) const { return (i >> 5) / (dims / 8) * 4 + (i & 3); }
  __device__ __forceinline__ float* global(const DecodeParams& p, const BlockPlace& place,
                                           int segment) const {
    return p.records +
           (static_cast<int64_t>(place.pair) * p.slots() + place.split + segment) * floats();
  }
};

// Floats as integers of the same order; NaN comes last.
__device__ __forceinline__ int ordered(float x) {
  const int bits = __float_as_int(x);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// Merges the pieces of each segment that crosses this block's warps into one record. Each warp
// takes parts of records on its own, so that their latencies overlap.
template <class Engine>
__device__ __forceinline__ void merge_pieces(const DecodeParams& p, const BlockPlace& place,
                                             BlockPieces<Engine::kWarps, Engine::kRows>& pieces,
                                             const float* records, const float* aside) {
  constexpr int kWarps = Engine::kWarps;
  const RecordShape<Engine> shape(p);
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int segment = lane < 2 * kWarps ? pieces.segment[lane] : -1;
  const unsigned is_aside =
      __ballot_sync(kFullWarp, lane < kWarps && pieces.set_aside[lane & (kWarps - 1)] != 0);
  const auto piece = [&](int k) {
    return ((is_aside >> k) & 1 ? aside : records) + (k & (kWarps - 1)) * shape.floats();
  };
  const unsigned peers = __match_any_sync(kFullWarp, segment);
  const bool leads = segment >= 0 && lane == __ffs(peers) - 1;
#pragma unroll 1
  for (int row = warp; row < shape.rows; row += kWarps) {
    const float maximum = segment >= 0 ? piece(lane)[shape.sums() + row] : -INFINITY;
    const float largest =
        __int_as_float(ordered(__int_as_float(__reduce_max_sync(peers, ordered(maximum)))));
    if (segment >= 0) {
      const float factor = rescale(maximum, largest);
      pieces.factor[lane][row] = factor;
      pieces.weight[lane][row] = factor * piece(lane)[shape.sums() + shape.rows + row];
    }
    if (leads) shape.global(p, place, segment)[shape.sums() + row] = largest;
  }
  __syncthreads();
  const unsigned leaders = __ballot_sync(kFullWarp, leads);
  const int parts = (shape.sums() + 127) / 128;
#pragma unroll 1
  for (int task = warp; task < __popc(leaders) * parts; task += kWarps) {
    const int group = task / parts, part = task - group * parts;
    unsigned from_group = leaders;
    for (int skipped = 0; skipped < group; ++skipped) from_group &= from_group - 1;
    const int leader = __ffs(from_group) - 1;
    const unsigned members = __shfl_sync(kFullWarp, peers, leader);
    float* target = shape.global(p, place, __shfl_sync(kFullWarp, segment, leader));
    // 4 elements that differ in the row only.
    const bool inside = part * 128 + lane * 4 < shape.sums();
    const int i = inside ? part * 128 + lane * 4 : 0, row = shape.row(i);
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    unsigned left = members;
#pragma unroll 1
    while (left != 0) {
      // Four members at a time, so that their loads overlap.
      float4 factor[4], x[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int k = left != 0 ? __ffs(left) - 1 : leader;
        factor[j] = *reinterpret_cast<const float4*>(&pieces.factor[k][row]);
        if (left == 0) factor[j] = make_float4(0.f, 0.f, 0.f, 0.f);
        x[j] = *reinterpret_cast<const float4*>(piece(k) + i);
        left &= left - 1;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum.x = fmaf(factor[j].x, x[j].x, sum.x);
        sum.y = fmaf(factor[j].y, x[j].y, sum.y);
        sum.z = fmaf(factor[j].z, x[j].z, sum.z);
        sum.w = fmaf(factor[j].w, x[j].w, sum.w);
      }
    }
    if (inside) {
      float* element = target + shape.plain(i);
      element[0] = sum.x;
      element[shape.dims] = sum.y;
      element[2 * shape.dims] = sum.z;
      element[3 * shape.dims] = sum.w;
    }
    if (part == 0 && lane < shape.rows) {
      float weight = 0.f;
#pragma unroll 1
      for (left = members; left != 0; left &= left - 1) {
        weight += pieces.weight[__ffs(left) - 1][lane];
      }
      target[shape.sums() + shape.rows + lane] = weight;
    }
  }
}

// One warp's record, copied: as it is (set aside) or in the plain order of global memory (a whole
// segment).
template <bool kPlain, class Engine>
__device__ __forceinline__ void copy_record(const RecordShape<Engine>& shape, const float* record,
                                            float* target) {
  const int lane = threadIdx.x & 31;
#pragma unroll 4
  for (int i = lane; i < shape.sums(); i += 32) target[kPlain ? shape.plain(i) : i] = record[i];
  if (lane < 2 * shape.rows) target[shape.sums() + lane] = record[shape.sums() + lane];
  __syncwarp();
}

// Engine: how a warp treats tiles and exact units (see decode_attention_fast.cuh,
// decode_attention_general.cuh).
template <class Engine>
__device__ __forceinline__ void decode_block(const DecodeParams& p, char* shared) {
  constexpr int kWarps = Engine::kWarps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const BlockPlace place;
  const RecordShape<Engine> shape(p);
  launch_dependents();

  float* records = reinterpret_cast<float*>(shared + Engine::kRecordOffset);
  auto& pieces =
      *reinterpret_cast<BlockPieces<kWarps, Engine::kRows>*>(shared + Engine::kMetaOffset);
  float* record = records + warp * shape.floats();
  // Set-aside records lie behind the others if there is room, else in global memory.
  float* aside = Engine::kAsideShared
                     ? records + kWarps * shape.floats()
                     : p.aside + static_cast<int64_t>(place.pair * p.splits + place.split) *
                                     kWarps * shape.floats();

  const HeadPlan plan(p);
  const Deal deal(plan.total(), p.splits * kWarps);
  int position = deal.begin(place.split * kWarps + warp);
  const int end = deal.begin(place.split * kWarps + warp + 1);
  int b = 0, row_start = 0;
  if (position < end) b = plan.find(p, position, &row_start);

  Engine engine(p, place.head, place.row_group, shared);
  bool prefetched = false;
  engine.prepare([&] {
    if (position >= end) return;
    const int tiles = RowWork(p, b).tiles;
    prefetched = position - row_start < tiles;
    if (prefetched) engine.prefetch(b, position - row_start, min(tiles, end - row_start));
  });
  if (lane == 0) {
    pieces.segment[warp] = -1;
    pieces.segment[kWarps + warp] = -1;
    pieces.set_aside[warp] = 0;
  }
  wait_for_previous_kernel();
  __syncthreads();

  const auto finish = [&](int segment, bool starts, bool ends, bool more) {
    if (starts && ends) {
      copy_record<true>(shape, record, shape.global(p, place, segment));
      return;
    }
    const bool sets_aside = !starts && more;
    if (sets_aside) copy_record<false>(shape, record, aside + warp * shape.floats());
    if (lane == 0) {
      pieces.segment[starts ? kWarps + warp : warp] = segment;
      if (sets_aside) pieces.set_aside[warp] = 1;
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
  merge_pieces<Engine>(p, place, pieces, records, aside);
}

}  // namespace vecinfer
