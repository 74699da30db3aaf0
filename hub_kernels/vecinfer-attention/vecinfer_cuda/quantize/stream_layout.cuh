// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The shared memory of stream_kernel.cuh.
#pragma once

#include "layout.cuh"

namespace vecinfer {

// Sizes in bytes are multiples of 16.
struct StreamLayout {
  // of the block
  int set_bytes, operand_bytes, matrix_bytes, shift_bytes, places_bytes;
  // of each warp
  int fixed_bytes, raw_bytes, low_bytes;
  int padded;  // positions of a plane

  __host__ __device__ StreamLayout(const Side& side, int head_dim) {
    const QuantizeLayout layout(side, head_dim, head_dim);
    const bool full = side.transform.kind == TransformKind::kFull;
    set_bytes = layout.set_bytes;
    operand_bytes = layout.operand_bytes;
    matrix_bytes = layout.full_bytes;
    shift_bytes = layout.shift_bytes;
    places_bytes = layout.places_bytes;
    fixed_bytes = 2 * 2 * step_elements(side.format.subvector_dim);
    raw_bytes = full ? kChunk * raw_stride(head_dim) : 0;
    low_bytes = layout.low_bytes;
    padded = layout.padded;
  }
  // Elements of a step, of which two are in fixed point.
  static __host__ __device__ constexpr int step_elements(int subvector_dim) {
    return subvector_dim == 8 ? 512 : 256;
  }
  // From token to token of stored states, in front of a matrix: spread over the banks.
  static __host__ __device__ constexpr int raw_stride(int head_dim) { return head_dim * 2 + 16; }
  __host__ __device__ int block_bytes() const {
    return operand_bytes + matrix_bytes + shift_bytes + places_bytes;
  }
  __host__ __device__ int warp_bytes() const { return fixed_bytes + raw_bytes + low_bytes; }
};

// Where all of it lies, for one warp.
struct StreamMemory {
  uint8_t* operands;
  uint4* matrix;
  float* shift;  // of FullTransform or prepare_affine
  uint16_t* places;
  __half* fixed;
  uint8_t *raw, *low;
  float steps;  // fixed-point steps of a transformed element's unit

  __device__ __forceinline__ StreamMemory(const StreamLayout& layout, uint8_t* shared,
                                          float fixed_steps)
      : operands(shared), steps(fixed_steps) {
    shared += layout.operand_bytes;
    matrix = reinterpret_cast<uint4*>(shared);
    shared += layout.matrix_bytes;
    shift = reinterpret_cast<float*>(shared);
    shared += layout.shift_bytes;
    places = reinterpret_cast<uint16_t*>(shared);
    shared += layout.places_bytes + threadIdx.x / 32 * layout.warp_bytes();
    fixed = reinterpret_cast<__half*>(shared);
    raw = shared + layout.fixed_bytes;
    low = raw + layout.raw_bytes;
  }
};

}  // namespace vecinfer
