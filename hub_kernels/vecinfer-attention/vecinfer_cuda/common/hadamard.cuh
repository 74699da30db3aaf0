// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The orthonormal block Walsh-Hadamard matrix in registers: the mirror of hadamard_matrix in
// vecinfer_hf/quantization/transforms.py.
#pragma once

namespace vecinfer {

// Elements one lane holds.
constexpr int kHadamardLane = 8;

// Largest power of two that divides head_dim: the size of a Hadamard block.
__host__ __device__ constexpr int hadamard_block(int head_dim) { return head_dim & -head_dim; }

// 1 / sqrt(block), the factor that makes H orthonormal.
__device__ __forceinline__ float hadamard_norm(int block) {
  return rsqrtf(static_cast<float>(block));
}

// The butterflies of x := x H / hadamard_norm within a lane: 8 consecutive elements of each of
// kRows rows. Rows are independent work for one another's latencies.
template <int kRows>
__device__ __forceinline__ void hadamard_in_lane(float (&x)[kRows][kHadamardLane]) {
#pragma unroll
  for (int stride = 1; stride < kHadamardLane; stride *= 2) {
#pragma unroll
    for (int i = 0; i < kRows * kHadamardLane; ++i) {
      float (&row)[kHadamardLane] = x[i / kHadamardLane];
      const int place = i % kHadamardLane;
      if ((place & stride) == 0) {
        const float low = row[place], high = row[place + stride];
        row[place] = low + high;
        row[place + stride] = low - high;
      }
    }
  }
}

// Those with the lane `lanes` away, a power of two. All lanes of the warp must call it.
template <int kRows>
__device__ __forceinline__ void hadamard_across(float (&x)[kRows][kHadamardLane], int lanes) {
  const float sign = (threadIdx.x & lanes) ? -1.0f : 1.0f;
#pragma unroll
  for (int i = 0; i < kRows * kHadamardLane; ++i) {
    float& mine = x[i / kHadamardLane][i % kHadamardLane];
    const float other = __shfl_xor_sync(0xffffffffu, mine, lanes);
    mine = fmaf(sign, mine, other);
  }
}

// x := x H / hadamard_norm over blocks of `block` elements (8..256) that consecutive lanes hold; a
// block starts at a multiple of block / 8 lanes.
template <int kRows>
__device__ __forceinline__ void hadamard_butterfly(float (&x)[kRows][kHadamardLane], int block) {
  hadamard_in_lane(x);
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    if (lanes >= block / kHadamardLane) break;
    hadamard_across(x, lanes);
  }
}

// The same for one row.
__device__ __forceinline__ void hadamard_butterfly(float (&x)[kHadamardLane], int block) {
  hadamard_butterfly<1>(reinterpret_cast<float (&)[1][kHadamardLane]>(x), block);
}

// x := x H.
__device__ __forceinline__ void hadamard_transform(float (&x)[kHadamardLane], int block) {
  hadamard_butterfly(x, block);
  const float norm = hadamard_norm(block);
#pragma unroll
  for (int i = 0; i < kHadamardLane; ++i) x[i] *= norm;
}

}  // namespace vecinfer
