// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Inputs and centroids in fixed point, and as operands of the products that nearest.cuh searches
// with.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace vecinfer {

// Makes room for the slightly negative best scores of inputs near 0. A multiple of 256.
constexpr int kScoreOffset = 4096;

template <int kDim>
struct FixedPoint {
  static_assert(kDim == 2 || kDim == 4 || kDim == 8);
  static constexpr int kSteps = 16 / kDim;  // fixed-point steps per int8 unit
  static constexpr int kNorm = 8 / kDim;
  // |k|^2 from here on could push the best score, at most |k|^2 / (2 kSteps), past its 17 bits.
  static constexpr float kLimit = 2.0f * kSteps * ((1 << 17) - kScoreOffset);
};

// Both operands of the mma are scaled by 2^-12, which keeps them exact: all are integers below 2^15
// of at most 11 bits.
constexpr float kOperandScale = 0x1p-12f;

// fp16 holds larger values only as infinity, if they are not scaled.
constexpr float kLargestFixed = 60000.0f;

// Two values to fixed point, scaled as an operand. Far ones may become infinite.
__device__ __forceinline__ __half2 to_fixed2_unclamped(float low, float high) {
  // Adding 1.5 * 2^23 leaves no bits below 1; much cheaper than the conversion instruction.
  constexpr float kMagic = 12582912.0f, kBack = -kMagic * kOperandScale;
  return __floats2half2_rn(fmaf(__fadd_rn(low, kMagic), kOperandScale, kBack),
                           fmaf(__fadd_rn(high, kMagic), kOperandScale, kBack));
}

__device__ __forceinline__ __half2 clamp_fixed2(__half2 k) {
  const __half2 largest = __float2half2_rn(kLargestFixed * kOperandScale);
  return __hmax2(__hmin2(k, largest), __hneg2(largest));
}

__device__ __forceinline__ __half2 to_fixed2(float low, float high) {
  return clamp_fixed2(to_fixed2_unclamped(low, high));
}

__device__ __forceinline__ __half to_fixed(float value) {
  return __low2half(to_fixed2(value, 0.0f));
}

// Back to whole steps.
__device__ __forceinline__ float from_fixed(__half k) {
  return __half2float(k) * (1.0f / kOperandScale);
}

__device__ __forceinline__ uint32_t pack_operand(int low, int high) {
  const __half2 pair = __floats2half2_rn(low * kOperandScale, high * kOperandScale);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// One centroid, elements spread over bytes.
template <int kDim>
struct Centroid {
  int value[kDim];
  int norm;  // kNorm |c|^2, at most 2^17

  __device__ __forceinline__ explicit Centroid(const int8_t* source) {
    uint32_t words[(kDim + 3) / 4];
    if constexpr (kDim == 2) {
      words[0] = *reinterpret_cast<const uint16_t*>(source);
    } else {
#pragma unroll
      for (int i = 0; i < kDim / 4; ++i) words[i] = reinterpret_cast<const uint32_t*>(source)[i];
    }
    norm = 0;
#pragma unroll
    for (int i = 0; i < kDim; ++i) {
      value[i] = static_cast<int8_t>(words[i / 4] >> (i % 4 * 8));
      norm += value[i] * value[i];
    }
    norm *= FixedPoint<kDim>::kNorm;
  }
};

// The norm with the score's offset, for the multipliers of RowFragment::constants.
__device__ __forceinline__ uint32_t pack_norm(int norm) {
  constexpr int kOffset = ((1 << 23) + 64 * kScoreOffset) / 16384;
  return pack_operand(kOffset - (norm >> 8), -(norm & 255));
}

// B operands of kTiles mma: 8 * kTiles consecutive centroids. Column n of tile t is the candidate 2
// t + n % 2 of quad lane n / 2, which holds 2 kTiles consecutive centroids: what a lane ends with
// are its own candidates.
template <int kDim, int kTiles>
struct CentroidFragments {
  static_assert(kTiles <= 32, "the candidate takes 6 bits");
  static constexpr int kWords = kDim == 8 ? 2 : 1;
  uint32_t word[kTiles][kWords];

  // Operand word of one lane for one tile.
  static __device__ __forceinline__ void make(const int8_t* centroids, int tile, int lane,
                                              uint32_t (&result)[kWords]) {
    const int column = lane >> 2, quad = lane & 3;
    const int candidate = 2 * tile + (column & 1);
    const Centroid<kDim> centroid(centroids + ((column >> 1) * 2 * kTiles + candidate) * kDim);
    const uint32_t norm = pack_norm(centroid.norm), number = pack_operand(63 - candidate, 0);
    const int extra = kDim == 8 ? quad : quad - kDim / 2;
    uint32_t pair = 0;
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) {
      if (quad == i)
        pair = pack_operand(64 * centroid.value[2 * i], 64 * centroid.value[2 * i + 1]);
    }
    const uint32_t constants = extra == 0 ? norm : extra == 1 ? number : 0;
    if constexpr (kDim == 8) {
      result[0] = pair;
      result[1] = constants;
    } else {
      result[0] = extra < 0 ? pair : constants;
    }
  }

  __device__ __forceinline__ void load(const int8_t* centroids) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) make(centroids, tile, threadIdx.x & 31, word[tile]);
  }
  // Operands of tiles 4 part.. 4 part + 3.
  __device__ __forceinline__ void take(int part, uint32_t (&words)[4][kWords]) const {
#pragma unroll
    for (int i = 0; i < 4 * kWords; ++i) {
      words[i / kWords][i % kWords] = word[4 * part + i / kWords][i % kWords];
    }
  }
};

// The same in shared memory, for all warps of a block.
template <int kDim, int kTiles>
class SharedCentroidFragments {
  using Maker = CentroidFragments<kDim, kTiles>;
  static constexpr int kWords = Maker::kWords;

 public:
  static constexpr int kBytes = kTiles * kWords * 32 * 4;

  __device__ __forceinline__ explicit SharedCentroidFragments(void* shared)
      : parts_(static_cast<uint4*>(shared)) {}

  // By all threads; barriers around it are the caller's.
  __device__ __forceinline__ void load(const int8_t* centroids) {
    const int lane = threadIdx.x & 31;
    uint32_t* target = reinterpret_cast<uint32_t*>(parts_);
#pragma unroll 2
    for (int tile = threadIdx.x / 32; tile < kTiles; tile += blockDim.x / 32) {
      uint32_t words[kWords];
      Maker::make(centroids, tile, lane, words);
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        const int index = tile * kWords + i;
        target[(index / 4 * 32 + lane) * 4 + index % 4] = words[i];
      }
    }
  }
  __device__ __forceinline__ void take(int part, uint32_t (&words)[4][kWords]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const uint4 four = parts_[(part * kWords + i) * 32 + (threadIdx.x & 31)];
      const uint32_t word[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) words[(4 * i + j) / kWords][(4 * i + j) % kWords] = word[j];
    }
  }

 private:
  uint4* parts_;
};

// A operand of one mma: 16 consecutive sub-vectors, and the multipliers of the constants.
template <int kDim>
struct RowFragment {
  uint32_t word[kDim == 8 ? 4 : 2];

  // What this lane holds of the multipliers.
  static __device__ __forceinline__ uint32_t constants() {
    const int quad = threadIdx.x & 3, extra = kDim == 8 ? quad : quad - kDim / 2;
    return extra == 0 ? pack_operand(16384, 64) : extra == 1 ? pack_operand(1, 0) : 0;
  }

  // rows [16][kDim].
  __device__ __forceinline__ void load(const __half* rows, uint32_t constants) {
    constexpr int kPairs = kDim / 2;
    const int lane = threadIdx.x & 31, quad = lane & 3;
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(rows) + (lane >> 2) * kPairs + quad;
    if constexpr (kDim == 8) {
      word[0] = pairs[0], word[1] = pairs[8 * kPairs];
      word[2] = word[3] = constants;
    } else {
      word[0] = word[1] = constants;
      if (quad < kPairs) word[0] = pairs[0], word[1] = pairs[8 * kPairs];
    }
  }
};

}  // namespace vecinfer
