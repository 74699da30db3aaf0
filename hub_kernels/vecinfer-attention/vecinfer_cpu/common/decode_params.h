// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What decode_attention's kernels get. A "pair" is a batch row and a key/value head; its R = group
// * Tq query rows are numbered query head first.
#pragma once

#include "packing.h"
#include "params.h"

namespace vecinfer {

struct DecodeParams {
  StatesView query, sinks[2], ring[2];
  int num_sinks, num_slots;
  CodesView codes;
  Side key, value;  // key.transform is the query's, value.transform the output's
  Planes key_planes, value_planes;
  const int *lengths, *quantized;
  int heads, group, queries;
  float softmax_scale, softcap;
  const float* sink_logits;  // [Hq] or null
  void* out;                 // [B, Hq, Tq, Dv], contiguous, dtype of the query
  float* lse;                // [B, Hq, Tq]

  int rows() const { return group * queries; }
  int64_t key_stride() const { return (key.head_dim + 15) / 16 * 16; }
  int64_t value_stride() const { return (value.head_dim + 15) / 16 * 16; }
  int length(int64_t batch) const { return lengths[batch] > 0 ? lengths[batch] : 0; }
  // Codes that are there and have room.
  int coded(int64_t batch) const {
    const int64_t room = codes.num_tiles * kTile;
    const int found = quantized[batch] > 0 ? quantized[batch] : 0;
    return found < room ? found : static_cast<int>(room);
  }
  // How many tokens, by their own index, a query row sees.
  int seen(int64_t batch, int row) const {
    const int count = length(batch) - queries + row % queries + 1;
    return count > 0 ? count : 0;
  }
  int codes_seen(int64_t batch, int row) const {
    const int most = seen(batch, row) - num_sinks, found = coded(batch);
    return most < 0 ? 0 : most < found ? most : found;
  }
};

// A softmax over some of the tokens: the largest score, the sum of weights exp(score - maximum) and
// the weighted sum of values, not divided by the total.
struct Part {
  float* maximum;  // [R]
  float* total;    // [R]
  float* output;   // [R][value_stride]
};

// One instruction set's implementation.
struct Kernels {
  const char* name;
  // rows [tokens][stride] in the model's space, changed; codes [tokens][num_codes][S].
  void (*quantize_rows)(const Side& side, int64_t head, float* rows, int64_t stride, int tokens,
                        uint16_t* codes);
  // Tokens first .. first + count of a pair to out [count][D] of a dtype. matrix: of the inverse.
  void (*dequantize)(const CodesView& codes, const Side& side, const Planes& planes, int64_t batch,
                     int64_t head, const float* matrix, int64_t first, int64_t count, void* out,
                     Dtype dtype);
  // Sinks and ring; the output is in the model's space.
  void (*attend_exact)(const DecodeParams& p, int64_t batch, int64_t head, Part& part);
  // A pair's queries for codes [R][key_stride] in the transformed space, times softmax_scale, and
  // what the keys' mean adds to all scores of a row [R].
  void (*code_queries)(const DecodeParams& p, int64_t batch, int64_t head, float* rows,
                       float* offset);
  // Codes first .. last; the output is in the transformed space.
  void (*attend_codes)(const DecodeParams& p, int64_t batch, int64_t head, int first, int last,
                       Part& part);
  // Merges num_parts parts of codes and the exact part, undoes the values' transform, writes.
  void (*finish)(const DecodeParams& p, int64_t batch, int64_t head, const Part* codes,
                 int num_parts, const Part& exact);
};

}  // namespace vecinfer
