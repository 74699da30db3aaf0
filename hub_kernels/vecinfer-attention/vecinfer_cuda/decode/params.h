// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Parameters of the kernels of decode_attention: plain data, no torch.
//
// clang-format off
// Words of this folder:
//   row         one query vector; a kv head has group * Tq rows, ordered by query head, then by query token
//   row tile    4 rows: an int8 mma has 8 columns and takes a high and a low byte of each row
//   row group   the rows of one thread block: 4, 8 or 16
//   split       one of the thread blocks that share a kv head and a row group
//   tile        codes of 32 tokens of one kv head, keys then values
//   unit        8 exact tokens (sinks or ring) of one batch row
//   segment     the codes (number 2 b) or the exact tokens (number 2 b + 1) of batch row b
//   record      unnormalized attention of a row group over part of a segment:
//               [rows, D] sums, [rows] maxima (log2), [rows] weights
// clang-format on
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../common/packing.cuh"
#include "../common/params.h"

namespace vecinfer {

constexpr int kRowTile = 4;
constexpr float kLog2E = 1.4426950408889634f;
// Exact tokens (sinks and ring) are dealt out in units of this many.
constexpr int kExactUnit = 8;

struct DecodeParams {
  // inputs
  StatesView query;  // [B, Hq, Tq, D]
  CodesView codes;
  StatesView sink_keys;  // [B, Hkv, S, D]
  StatesView sink_values;
  StatesView ring_keys;  // [B, Hkv, C, D], C = ring_slots
  StatesView ring_values;
  const int* lengths;            // [B]
  const int* quantized_lengths;  // [B]
  Side key;                      // transform: of the query
  Side value;                    // transform: of the output
  const float* sink_logits;      // [Hq] or null
  bool bf16;
  float softmax_scale;
  float softcap;        // log2 score; 0: none
  float softcap_slope;  // turns a log2 score into the log2 of exp(2 score / softcap)

  // outputs
  void* out;   // [B, Hq, Tq, D]
  float* lse;  // [B, Hq, Tq]

  // written by the query kernel; null where the main kernel transforms the queries itself
  float* query_float;  // [B, Hkv, padded_rows, D] transformed
  float* row_offset;   // [B, Hkv, padded_rows] log2 score of the key mean

  // written by the main kernel
  float* records;  // [Hkv * row_groups, splits + 2 B, record_floats]
  float* aside;    // [Hkv * row_groups * splits * warps, record_floats]

  int batch;
  int kv_heads;
  int group;         // query heads per kv head
  int query_tokens;  // Tq
  FastDivider by_query_tokens;
  int head_dim;
  int rows;            // group * Tq
  int rows_per_group;  // of a row group: 4, 8 or 16
  int row_groups;
  int splits;
  int warps;  // of a main block
  int sink_length;
  int ring_slots;
  int exact_weight;  // work of an exact unit in tiles
  int start_weight;  // work of starting a row in tiles
  int query_limit;   // largest 16-bit query: keeps integer scores under 2**30

  __host__ __device__ int padded_rows() const { return rows_per_group * row_groups; }
  __host__ __device__ int record_floats() const { return rows_per_group * (head_dim + 2); }
  __host__ __device__ int slots() const { return splits + 2 * batch; }

#ifdef __CUDACC__
  // A row's query as given; rows of the padding read the last one's, and nobody reads what comes of
  // it.
  __device__ __forceinline__ const uint16_t* query_row(int b, int head, int row) const {
    row = min(row, rows - 1);
    const int member = by_query_tokens.divide(row);
    return static_cast<const uint16_t*>(query.data) + b * query.batch_stride +
           (head * group + member) * query.head_stride +
           (row - member * query_tokens) * query.token_stride;
  }
#endif
};

}  // namespace vecinfer
