// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Partial softmax: maxima and scores in log2, the rules for rows that saw nothing (maximum -inf),
// and the order of a record in shared memory.
#pragma once

#include <cmath>

#include "../common/instructions.cuh"
#include "params.h"

namespace vecinfer {

// Factor that brings sums relative to `maximum` to a larger `reference`. A row that saw nothing
// weighs nothing; NaN stays.
__device__ __forceinline__ float rescale(float maximum, float reference) {
  return maximum == -INFINITY ? 0.f : exp2_approx(maximum - reference);
}

// softcap * tanh(score / softcap) of log2 scores, or the score itself. Through exp2: tanh.approx
// has 11 bits only.
__device__ __forceinline__ float apply_softcap(const DecodeParams& p, float x) {
  if (p.softcap == 0.f) return x;
  return p.softcap - __fdividef(2.f * p.softcap, 1.f + exp2_approx(x * p.softcap_slope));
}

// A record of kRows x head_dim in shared memory or set aside: [row tile][element of a lane][lane],
// so that each lane of the int8 kernel (row lane % 4, dimensions from (lane / 4) * D / 8 on) reads
// and writes without bank conflicts; then [rows] maxima and [rows] weights. In global memory
// records are plain [rows, D].
__host__ __device__ constexpr int record_index(int row, int dim, int head_dim) {
  const int per_lane = head_dim / 8;
  return ((row / 4) * per_lane + dim % per_lane) * 32 + (dim / per_lane) * 4 + row % 4;
}

}  // namespace vecinfer
