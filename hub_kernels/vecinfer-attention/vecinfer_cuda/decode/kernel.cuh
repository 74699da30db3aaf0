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
template <int kWarps, int kScratchFloats>
struct BlockPieces {
  float scratch[kScratchFloats];  // of the engine
  int segment[2 * kWarps];        // or -1
  int set_aside[kWarps];          // the continued piece is not in the warp's record
  int first_row[kWarps];          // batch row of the codes that the warp begins with, or -1
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
// takes parts of 128 elements on its own; lanes stand for pieces.
template <class Engine>
__device__ __forceinline__ void merge_pieces(const DecodeParams& p, const BlockPlace& place,
                                             const typename Engine::Pieces& pieces,
                                             const float* records, const float* aside) {
  constexpr int kWarps = Engine::kWarps;
  const RecordShape<Engine> shape(p);
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int segment = lane < 2 * kWarps ? pieces.segment[lane] : -1;
  const unsigned is_aside =
      __ballot_sync(kFullWarp, lane < kWarps && pieces.set_aside[lane % kWarps] != 0);
  const auto piece = [&](int k) {
    return ((is_aside >> k) & 1 ? aside : records) + k % kWarps * shape.floats();
  };
  const unsigned peers = __match_any_sync(kFullWarp, segment);
  const unsigned leaders = __ballot_sync(kFullWarp, segment >= 0 && lane == __ffs(peers) - 1);
  const int parts = (shape.sums() + 127) / 128, tile_parts = (shape.dims + 31) / 32;
#pragma unroll 1
  for (int task = warp; task < __popc(leaders) * parts; task += kWarps) {
    const int group = task / parts, part = task - group * parts;
    const int leader = nth_bit(leaders, group);
    const unsigned members = __shfl_sync(kFullWarp, peers, leader);
    float* target = shape.global(p, place, __shfl_sync(kFullWarp, segment, leader));
    // A part lies within 4 rows.
    const int row = part / tile_parts * kRowTile;
    float factor[kRowTile], maximum[kRowTile], weight[kRowTile];
    {
      const bool is_member = (members >> lane) & 1;
      const float* own = piece(is_member ? lane : leader) + shape.sums() + row;
#pragma unroll
      for (int i = 0; i < kRowTile; ++i) {
        const float m = is_member ? own[i] : -INFINITY;
        maximum[i] =
            __int_as_float(ordered(__int_as_float(__reduce_max_sync(kFullWarp, ordered(m)))));
        factor[i] = rescale(m, maximum[i]);
        weight[i] = is_member ? factor[i] * own[shape.rows + i] : 0.f;
      }
    }
    // 4 elements that differ in the row only.
    const bool inside = part * 128 + lane * 4 < shape.sums();
    const int i = inside ? part * 128 + lane * 4 : 0;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    const int nobody = __ffs(~members) - 1;  // its factor is 0
    unsigned left = members;
#pragma unroll 1
    while (left != 0) {
      // Four members at a time, so that their loads overlap.
      float4 x[4];
      int k[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        k[j] = left != 0 ? __ffs(left) - 1 : nobody;
        x[j] = *reinterpret_cast<const float4*>(piece(left != 0 ? k[j] : leader) + i);
        left &= left - 1;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum.x = fmaf(__shfl_sync(kFullWarp, factor[0], k[j]), x[j].x, sum.x);
        sum.y = fmaf(__shfl_sync(kFullWarp, factor[1], k[j]), x[j].y, sum.y);
        sum.z = fmaf(__shfl_sync(kFullWarp, factor[2], k[j]), x[j].z, sum.z);
        sum.w = fmaf(__shfl_sync(kFullWarp, factor[3], k[j]), x[j].w, sum.w);
      }
    }
    if (inside) {
      float* element = target + shape.plain(i);
      element[0] = sum.x;
      element[shape.dims] = sum.y;
      element[2 * shape.dims] = sum.z;
      element[3 * shape.dims] = sum.w;
    }
    if (part % tile_parts == 0) {
#pragma unroll
      for (int r = 0; r < kRowTile; ++r) {
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
          weight[r] += __shfl_xor_sync(kFullWarp, weight[r], distance);
        }
        if (lane == 0) {
          target[shape.sums() + row + r] = maximum[r];
          target[shape.sums() + shape.rows + row + r] = weight[r];
        }
      }
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

// Engine: how a warp treats tiles and exact units (see fast_engine.cuh,
// general_engine.cuh).
template <class Engine>
__device__ __forceinline__ void decode_block(const DecodeParams& p, char* shared) {
  constexpr int kWarps = Engine::kWarps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const BlockPlace place;
  const RecordShape<Engine> shape(p);
  launch_dependents();
  HeadPlan plan(p);

  float* records = reinterpret_cast<float*>(shared + Engine::kRecordOffset);
  auto& pieces = *reinterpret_cast<typename Engine::Pieces*>(shared + Engine::kMetaOffset);
  float* record = records + warp * shape.floats();
  // Set-aside records lie behind the others if there is room, else in global memory.
  float* aside = Engine::kAsideShared
                     ? records + kWarps * shape.floats()
                     : p.aside + static_cast<int64_t>(place.pair * p.splits + place.split) *
                                     kWarps * shape.floats();

  Engine engine(p, place.head, place.row_group, shared);
  int position, end, b = 0, row_start = 0;
  bool prefetched = false;
  engine.prepare([&] {
    plan.finish(p);
    const Deal deal(plan.total(), p.splits * kWarps);
    position = deal.begin(place.split * kWarps + warp);
    end = deal.begin(place.split * kWarps + warp + 1);
    if (position >= end) return;
    b = plan.find(p, position, &row_start);
    row_start += p.start_weight;
    const int first = max(position - row_start, 0);
    const int last = min(RowWork(p, b).tiles, end - row_start);
    prefetched = first < last;
    if (!prefetched) return;
    // Warps of one batch row share its queries; the first of them fetches them.
    const bool leads = warp == 0 || deal.begin(place.split * kWarps + warp - 1) < row_start;
    engine.prefetch(b, first, last, leads, true);
  });
  if (lane == 0) {
    pieces.segment[warp] = -1;
    pieces.segment[kWarps + warp] = -1;
    pieces.set_aside[warp] = 0;
  }
  engine.first_queries(prefetched ? b : -1, pieces.first_row);

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
    RowWork work(p, b);
    const int first = max(position - row_start, 0), last = min(work.tiles, end - row_start);
    if (first < last) {
      if (!prefetched) engine.prefetch(b, first, last, true, false);
      engine.codes(b, work, first, last, prefetched, record);
      prefetched = false;
      finish(2 * b, first == 0, last == work.tiles, row_start + last < end);
      position = row_start + last;
      // Made again, so that its parts take no registers meanwhile.
      work = RowWork(p, opaque(work.length), opaque(work.coded));
    }
    if (position < end) {
      const int exact_start = row_start + work.tiles;
      const UnitRange units(position - exact_start, end - exact_start, work.units, p.exact_weight);
      row_start += work.span(p);  // the next row's first tile
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
