// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The kernel behind decode attention: merges a row's records by their maxima, brings the coded part
// back from the values' transformed space, adds the exact part and the attention sink, and
// normalises.
#pragma once

#include <type_traits>

#include "../common/hadamard.cuh"
#include "row_product.cuh"
#include "row_records.cuh"
#include "split_matrix.cuh"

namespace vecinfer {

// How a block multiplies its rows by a full output transform: one tile of rows, as soon as can be,
// or several, for which it fetches the matrix once. kNone: there is no or a diagonal transform.
enum class Product { kNone, kOneTile, kSeveralTiles };

// Slices of a block that transforms `tiles` tiles of rows by a full matrix, so that it has
// kMatrixWarps warps.
__host__ __device__ constexpr int matrix_slices(int tiles) {
  return kMatrixWarps / kRowTile / tiles;
}

// Shared memory of a block: what each of its warps gathered. With a full transform: rows in front
// of it, the matrix of a single tile, and the product's place, where what was gathered lies before.
__host__ __device__ constexpr int gathered_floats(int lane_dims) {
  return 32 * (2 * lane_dims + 3);
}
template <int kLaneDims, Product kProduct>
constexpr int combine_floats(int warps) {
  const int gathered = warps * gathered_floats(kLaneDims);
  if (kProduct == Product::kNone) return gathered;
  if (kProduct == Product::kSeveralTiles) {
    return RowProduct<kLaneDims, kMatrixWarps>::kRows * product_row_floats(kLaneDims) + gathered;
  }
  using Matrix = SplitMatrix<kLaneDims>;
  return kRowTile * 32 * kLaneDims + Matrix::kStagedFloats +
         (gathered > Matrix::kPartialFloats ? gathered : Matrix::kPartialFloats);
}

// In the place of a matrix where there is none.
struct NoMatrix {
  static constexpr int kStagedFloats = 0;
  __device__ NoMatrix(const float*, int, int, float*) {}
};

// Grid (tiles of 4 rows, Hkv, B), block (32, 4, slices): a warp per row and slice; slices share the
// row's records. With several tiles: grid (groups of tiles of all batch rows, Hkv), block (32, 4
// tiles, slices). kLaneDims: D / 32, rounded up.
template <int kLaneDims, Product kProduct>
__device__ __forceinline__ void combine_rows(const DecodeParams& p) {
  extern __shared__ float shared[];
  constexpr bool kFull = kProduct != Product::kNone, kSeveral = kProduct == Product::kSeveralTiles;
  using Matrix =
      std::conditional_t<kProduct == Product::kOneTile, SplitMatrix<kLaneDims>, NoMatrix>;
  using Several = RowProduct<kLaneDims, kMatrixWarps>;
  constexpr int kRowFloats = kSeveral ? product_row_floats(kLaneDims) : 32 * kLaneDims;
  constexpr int kRowsInShared = kSeveral ? Several::kRows : kFull ? kRowTile : 0;
  const int block_rows = kSeveral ? blockDim.y : kRowTile;
  const int lane = threadIdx.x, warp = threadIdx.z * block_rows + threadIdx.y;
  const int slice = threadIdx.z, slices = blockDim.z, head = blockIdx.y;
  int row = blockIdx.x * kRowTile + threadIdx.y, b = blockIdx.z;
  if constexpr (kSeveral) {
    const int row_tiles = ceil_div(p.rows, kRowTile);
    const int tile = (blockIdx.x * blockDim.y + threadIdx.y) / kRowTile;
    b = tile / row_tiles;
    row = (tile - b * row_tiles) * kRowTile + threadIdx.y % kRowTile;
    if (b >= p.batch) b = p.batch - 1, row = p.rows;  // behind the last tile
  }
  const bool finishes = slice == 0 && row < p.rows;
  const int dims = p.head_dim;
  const int row_group = row / p.rows_per_group, local_row = row - row_group * p.rows_per_group;
  float* const rows = shared + Matrix::kStagedFloats;
  float* const gathered_place = rows + kRowsInShared * kRowFloats;
  float* const own = gathered_place + warp * gathered_floats(kLaneDims);
  const Transform& transform = p.value.transform;
  // Asked for before the main kernel has ended.
  const Matrix matrix(transform.weight + static_cast<int64_t>(head) * dims * dims, dims, warp,
                      shared);
  Several product;
  if constexpr (kSeveral) {
    product.start(transform.weight + static_cast<int64_t>(head) * dims * dims, dims, warp);
  }

  HeadPlan plan(p);
  plan.finish(p);
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

  Gathered<kLaneDims> gathered;
  const int total = row < p.rows ? coded.count + exact.count : 0;
  constexpr int kBatch = kLaneDims > 4 ? 3 : 6;  // records in flight
  const int floats = p.record_floats(), maxima = p.rows_per_group * dims + local_row;
#pragma unroll 1
  for (int first = slice; first < total; first += kBatch * slices) {
    float maximum[kBatch], weight[kBatch], x[kBatch][kLaneDims];
    float reference = gathered.maximum;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int index = first + i * slices;
      const int slot =
          index < coded.count ? coded.first + index : exact.first + index - coded.count;
      const float* record = records + static_cast<int64_t>(slot) * floats;
      const bool missing =
          index >= coded.count && has_no_unit(p, deal, slot - (2 * b + 1), exact_start, work.units);
      const bool present = index < total && !missing;
      maximum[i] = present ? record[maxima] : -INFINITY;
      weight[i] = present ? record[maxima + p.rows_per_group] : 0.f;
#pragma unroll
      for (int j = 0; j < kLaneDims; ++j) {
        const int dim = lane + 32 * j;
        x[i][j] = present && dim < dims ? record[local_row * dims + dim] : 0.f;
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) reference = fmaxf(reference, maximum[i]);
    gathered.raise(reference);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      gathered.add(first + i * slices >= coded.count, maximum[i], weight[i], x[i]);
    }
  }

  if (slices > 1) {
    own[lane] = gathered.maximum;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      own[32 * (1 + part) + lane] = gathered.weight[part];
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) {
        own[32 * (3 + part * kLaneDims + i) + lane] = gathered.sum[part][i];
      }
    }
    __syncthreads();
    if (!kFull && slice != 0) return;
    const int others = slice == 0 ? slices : 0;
#pragma unroll 1
    for (int s = 1; s < others; ++s) {
      const float* theirs = own + s * block_rows * gathered_floats(kLaneDims) + lane;
      gathered.raise(theirs[0]);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        float x[kLaneDims];
#pragma unroll
        for (int i = 0; i < kLaneDims; ++i) x[i] = theirs[32 * (3 + part * kLaneDims + i)];
        gathered.add(part, theirs[0], theirs[32 * (1 + part)], x);
      }
    }
  }
  if (!kFull && !finishes) return;

  const int query_head = head * p.group + p.by_query_tokens.divide(row);
  float total_weight = gathered.weight[0] + gathered.weight[1];
  if (p.sink_logits != nullptr && finishes) {
    const float sink = p.sink_logits[query_head] * kLog2E;
    gathered.raise(sink);
    total_weight = gathered.weight[0] + gathered.weight[1] + rescale(sink, gathered.maximum);
  }
  // A row without tokens: zeros, and a log-sum-exp of -inf.
  const float inverse = total_weight == 0.f ? 0.f : 1.f / total_weight;
  float out[kLaneDims];
#pragma unroll
  for (int i = 0; i < kLaneDims; ++i) out[i] = gathered.sum[0][i] * inverse;

  if constexpr (kSeveral) {
    float* const results = gathered_place;
    if (slice == 0) {
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) rows[warp * kRowFloats + lane + 32 * i] = out[i];
    }
    __syncthreads();
    const int last_row = block_rows - 1;  // the rest of the product is not needed
    product.run(
        [&](int i, int k) {
          return *reinterpret_cast<const float4*>(rows + min(i, last_row) * kRowFloats + k);
        },
        [&](int i, int column, float y0, float y1) {
          if (i > last_row) return;
          *reinterpret_cast<float2*>(results + i * kRowFloats + column) = make_float2(y0, y1);
        });
    __syncthreads();
    if (!finishes) return;
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) out[i] = results[warp * kRowFloats + lane + 32 * i];
  } else if constexpr (kFull) {
    float* const partial = gathered_place;
    if (slice == 0) {
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) rows[warp * kRowFloats + lane + 32 * i] = out[i];
    }
    __syncthreads();
    matrix.multiply(rows, kRowFloats, partial);
    __syncthreads();
    if (!finishes) return;
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) out[i] = matrix.total(partial, threadIdx.y, lane + 32 * i);
  } else if (transform.kind == TransformKind::kDiagonal) {
    const int block = hadamard_block(dims);
    hadamard_across_lanes(out, block);
    const float norm = hadamard_norm(block);
#pragma unroll
    for (int i = 0; i < kLaneDims; ++i) {
      const int dim = min(lane + 32 * i, dims - 1);
      out[i] *= norm * transform.weight[head * dims + dim];
    }
  }

  const int64_t out_row =
      (static_cast<int64_t>(b) * p.kv_heads + head) * p.rows + row;  // = [B, Hq, Tq]
#pragma unroll
  for (int i = 0; i < kLaneDims; ++i) {
    const int dim = lane + 32 * i;
    if (dim >= dims) break;
    if (transform.mean != nullptr) {
      out[i] = fmaf(transform.mean[head * dims + dim], gathered.weight[0] * inverse, out[i]);
    }
    out[i] = fmaf(gathered.sum[1][i], inverse, out[i]);
    if (p.bf16) {
      static_cast<__nv_bfloat16*>(p.out)[out_row * dims + dim] = __float2bfloat16_rn(out[i]);
    } else {
      static_cast<__half*>(p.out)[out_row * dims + dim] = __float2half_rn(out[i]);
    }
  }
  if (lane == 0) p.lse[out_row] = (gathered.maximum + log2f(total_weight)) / kLog2E;
}

template <int kLaneDims, bool kFull>
__global__ void combine_kernel(const __grid_constant__ DecodeParams p) {
  combine_rows<kLaneDims, kFull ? Product::kOneTile : Product::kNone>(p);
}

// Blocks of several tiles, for full matrices and many rows.
template <int kLaneDims>
__global__ void __launch_bounds__(32 * kMatrixWarps, 1)
    combine_many_kernel(const __grid_constant__ DecodeParams p) {
  combine_rows<kLaneDims, Product::kSeveralTiles>(p);
}

}  // namespace vecinfer
