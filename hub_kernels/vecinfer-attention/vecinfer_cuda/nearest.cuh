// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Nearest-centroid search on the tensor cores, exact for inputs in fixed point.
//
// In units of the centroid scale a centroid c is an int8 vector. The input x is rounded to k =
// kSteps * x, so that the score kSteps * (x . c - |c|^2 / 2) = k . c - kNorm |c|^2 is an integer.
// One mma computes, for 16 sub-vectors and 8 centroids, 1/2 + 2^-24 (64 * (score + kScoreOffset) +
// candidate): the inputs fill subvector_dim of its inner dimensions, and three more carry the norm
// with the offset (in two parts) and the candidate's number. Everything is exact in fp32. One
// maximum over the results is both maximum and arg max, and in [1/2, 1) the float's mantissa is the
// result. Best scores outside, of inputs far out or of a codebook with nothing near, take the slow
// exact_row.
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

// fp16 holds larger values only as infinity.
constexpr float kLargestFixed = 60000.0f;

// Two values to fixed point.
__device__ __forceinline__ __half2 to_fixed2(float low, float high) {
  // Adding 1.5 * 2^23 leaves no bits below 1; much cheaper than the conversion instruction.
  constexpr float kMagic = 12582912.0f;
  const __half2 k =
      __floats2half2_rn(__fadd_rn(low, kMagic) - kMagic, __fadd_rn(high, kMagic) - kMagic);
  const __half2 largest = __float2half2_rn(kLargestFixed);
  return __hmax2(__hmin2(k, largest), __hneg2(largest));
}

__device__ __forceinline__ __half to_fixed(float value) {
  return __low2half(to_fixed2(value, 0.0f));
}

// Both operands of the mma are scaled by 2^-12, which keeps them exact: all are integers below 2^15
// of at most 11 bits.
constexpr float kOperandScale = 0x1p-12f;

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
    constexpr int kOffset = ((1 << 23) + 64 * kScoreOffset) / 16384;
    const uint32_t norm = pack_operand(kOffset - (centroid.norm >> 8), -(centroid.norm & 255));
    const uint32_t number = pack_operand(63 - candidate, 0);
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
};

// A operand of one mma: 16 consecutive sub-vectors, and the multipliers of the constants.
template <int kDim>
struct RowFragment {
  uint32_t word[kDim == 8 ? 4 : 2];

  static __device__ __forceinline__ uint32_t scaled(const __half* rows, int pair) {
    const __half2 k =
        __hmul2(reinterpret_cast<const __half2*>(rows)[pair], __float2half2_rn(kOperandScale));
    return *reinterpret_cast<const uint32_t*>(&k);
  }

  // rows [16][kDim]. Without branches: lanes that hold constants read something, too.
  __device__ __forceinline__ void load(const __half* rows) {
    constexpr int kPairs = kDim / 2;
    const int lane = threadIdx.x & 31;
    const int row = lane >> 2, quad = lane & 3;
    const int extra = kDim == 8 ? quad : quad - kPairs;
    const uint32_t constants = extra == 0   ? pack_operand(16384, 64)
                               : extra == 1 ? pack_operand(1, 0)
                                            : 0;
    const uint32_t upper = scaled(rows, row * kPairs + quad % kPairs);
    const uint32_t lower = scaled(rows, (row + 8) * kPairs + quad % kPairs);
    if constexpr (kDim == 8) {
      word[0] = upper, word[1] = lower;
      word[2] = word[3] = constants;
    } else {
      word[0] = extra < 0 ? upper : constants;
      word[1] = extra < 0 ? lower : constants;
    }
  }
};

__device__ __forceinline__ int maximum3(int a, int b, int c) {
#if __CUDA_ARCH__ >= 900
  return __vimax3_s32(a, b, c);
#else
  return max(a, max(b, c));
#endif
}

// A key orders results: score first, then the lowest code. Keys below kNoScore hold no usable
// score.
constexpr int kNoScore = 4096;
__device__ __forceinline__ int make_key(int score, int code) { return score << 12 | (4095 - code); }
__device__ __forceinline__ int key_to_code(int key, int bits) {
  return (4095 - (key & 4095)) & ((1 << bits) - 1);
}

// One tile's results c for one row fragment, into its running maxima: rows lane / 4 and lane / 4
// + 8.
template <int kDim>
__device__ __forceinline__ void score_tile(const RowFragment<kDim>& a, const uint32_t* b,
                                           float (&c)[4]) {
  if constexpr (kDim == 8) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %10, %10, %10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b[0]), "r"(b[1]),
          "f"(0.0f));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%7, %7, %7, %7};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(b[0]), "f"(0.0f));
  }
}

// Which of 32 rows a lane ends with.
__device__ __forceinline__ int nearest_row() {
  const int lane = threadIdx.x & 31;
  return (lane >> 2) + 16 * (lane & 1) + 4 * (lane & 2);
}

// Best of 8 * kTiles centroids, whose first is number `base`, for 32 sub-vectors rows [32][kDim].
// Returns the key of row nearest_row().
template <int kDim, int kTiles>
__device__ __forceinline__ int nearest32(const __half* rows,
                                         const CentroidFragments<kDim, kTiles>& b, int base) {
  RowFragment<kDim> a[2];
  a[0].load(rows);
  a[1].load(rows + 16 * kDim);
  int best[4] = {0, 0, 0, 0};  // rows lane / 4 + 0, 8, 16, 24; positive floats order like integers
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float c[4];
      score_tile(a[half], b.word[tile], c);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        int& row = best[2 * half + i];
        row = maximum3(row, __float_as_int(c[2 * i]), __float_as_int(c[2 * i + 1]));
      }
    }
  }
  const int lane = threadIdx.x & 31;
  const int first = 4095 - 63 - base - (lane & 3) * 2 * kTiles;
  int key[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // The mantissa; anything below 1/2 is no usable score. Candidates count down from 63.
    const int result = max(best[i] - 0x3f000000, 0);
    key[i] = ((result & ~63) << 6) + first + (result & 63);
  }
  // Each step hands the other lane the rows it keeps: 4 lanes with 4 rows end with one row each.
  const bool odd = lane & 1, high = lane & 2;
  const int low_key =
      max(odd ? key[2] : key[0], __shfl_xor_sync(0xffffffffu, odd ? key[0] : key[2], 1));
  const int high_key =
      max(odd ? key[3] : key[1], __shfl_xor_sync(0xffffffffu, odd ? key[1] : key[3], 1));
  return max(high ? high_key : low_key, __shfl_xor_sync(0xffffffffu, high ? low_key : high_key, 2));
}

// Exact search for one sub-vector by one warp, in fp32 and for any input. All lanes return the key.
template <int kDim>
__device__ __forceinline__ int exact_row(const __half* row, const int8_t* centroids, int size) {
  float k[kDim];
#pragma unroll
  for (int i = 0; i < kDim; ++i) k[i] = __half2float(row[i]);
  float best = -INFINITY;
  int code = size - 1;
  for (int index = threadIdx.x & 31; index < size; index += 32) {
    const Centroid<kDim> centroid(centroids + index * kDim);
    float score = -static_cast<float>(centroid.norm);
#pragma unroll
    for (int i = 0; i < kDim; ++i) score = fmaf(k[i], static_cast<float>(centroid.value[i]), score);
    if (score > best) best = score, code = index;
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, best, lanes);
    const int other_code = __shfl_xor_sync(0xffffffffu, code, lanes);
    if (other > best || (other == best && other_code < code)) best = other, code = other_code;
  }
  return make_key(1, code);
}

// Whether the fast search may be wrong for this sub-vector.
template <int kDim>
__device__ __forceinline__ bool is_far(const __half* row) {
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < kDim; ++i) {
    const float k = __half2float(row[i]);
    square = fmaf(k, k, square);
  }
  return !(square < FixedPoint<kDim>::kLimit);
}

// What is left of a sub-vector for its next code; exact, because both are whole numbers of steps.
template <int kDim>
__device__ __forceinline__ void subtract_centroid(__half* row, const int8_t* source) {
  const Centroid<kDim> centroid(source);
#pragma unroll
  for (int i = 0; i < kDim; ++i) {
    row[i] = to_fixed(__half2float(row[i]) - FixedPoint<kDim>::kSteps * centroid.value[i]);
  }
}

// The codes of 32 rows, one per lane, after the last pass: keys of rows that the fast search may
// have got wrong are searched again. `rows` is the first row, `mine` this lane's.
template <int kDim>
__device__ __forceinline__ int settle_keys(int key, bool wanted, const __half* rows, int mine,
                                           const int8_t* centroids, int size) {
  unsigned slow =
      __ballot_sync(0xffffffffu, wanted && (key < kNoScore || is_far<kDim>(rows + mine * kDim)));
  for (; slow; slow &= slow - 1) {
    const int lane = __ffs(slow) - 1;
    const int exact =
        exact_row<kDim>(rows + __shfl_sync(0xffffffffu, mine, lane) * kDim, centroids, size);
    if ((threadIdx.x & 31) == lane) key = exact;
  }
  return key;
}

}  // namespace vecinfer
