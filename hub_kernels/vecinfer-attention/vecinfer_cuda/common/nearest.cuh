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

#include "instructions.cuh"
#include "nearest_operands.cuh"

namespace vecinfer {

__device__ __forceinline__ int maximum3(int a, int b, int c) {
#if __CUDA_ARCH__ >= 900
  return __vimax3_s32(a, b, c);
#else
  return max(a, max(b, c));
#endif
}

// The bits of 1/2. Positive floats order like integers; anything below is no usable score.
constexpr int kLeast = 0x3f000000;

// A key orders results: score first, then the lowest code. Keys below kNoScore hold no usable
// score.
constexpr int kNoScore = 4096;
__device__ __forceinline__ int make_key(int score, int code) { return score << 12 | (4095 - code); }
__device__ __forceinline__ int key_to_code(int key, int bits) { return ~key & ((1 << bits) - 1); }

// One tile's results for one row fragment: c[0] and c[1] of row lane / 4, the others of 8 rows on.
template <int kDim>
__device__ __forceinline__ void score_tile(const RowFragment<kDim>& a, const uint32_t* b,
                                           float (&c)[4]) {
  if constexpr (kDim == 8) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %10, %10, %10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b[0]), "r"(b[1]),
          "f"(0.0f));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5}, {%6}, "
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

// Best results of a quad's 4 lanes, each with its own 2 * kTiles of the candidates, to keys.
template <int kTiles>
class QuadKeys {
 public:
  __device__ __forceinline__ QuadKeys() {
    const int lane = threadIdx.x & 31;
    odd_ = lane & 1, high_ = lane & 2;
    // Until the end keys lack what depends on the lane: its first candidate.
    to_pair_ = odd_ ? -2 * kTiles : 2 * kTiles;
    to_quad_ = high_ ? -4 * kTiles : 4 * kTiles;
    first_ = kBias + 4095 - 63 - (~lane & 3) * 2 * kTiles;
  }

  // best: of rows lane / 4 + 8 i, at least kLeast. base: the search's first candidate. Returns the
  // key of row nearest_row().
  __device__ __forceinline__ int reduce(const int (&best)[4], int base) const {
    int key[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // The score moves up by 6 bits, the candidate (counting down from 63) does not. What is left
      // of the exponent is the same in all keys.
      key[i] = static_cast<int>((best[i] & ~63u) * 63u + best[i]);
    }
    // Each step hands the other lane the rows it keeps: 4 lanes with 4 rows end with one row each.
    const int low = __viaddmax_s32(odd_ ? key[2] : key[0], to_pair_,
                                   __shfl_xor_sync(kFullWarp, odd_ ? key[0] : key[2], 1));
    const int high = __viaddmax_s32(odd_ ? key[3] : key[1], to_pair_,
                                    __shfl_xor_sync(kFullWarp, odd_ ? key[1] : key[3], 1));
    return __viaddmax_s32(high_ ? high : low, to_quad_,
                          __shfl_xor_sync(kFullWarp, high_ ? low : high, 2)) +
           (first_ - base);
  }

 private:
  static constexpr int kBias = -static_cast<int>(static_cast<unsigned>(kLeast) * 64u);
  bool odd_, high_;
  int to_pair_, to_quad_, first_;
};

// What find_best does beside its products if there is nothing else to do.
struct NothingBeside {
  __device__ __forceinline__ void operator()(int) const {}
};

// Best results of 8 * kTiles centroids for kGroups times 32 sub-vectors rows [32 kGroups][kDim]:
// rows lane / 4 + 8 i of each group. constants: of RowFragment. beside(i): other work, after the
// i-th 4 tiles' products.
template <int kDim, int kTiles, int kGroups, class Fragments, class Beside = const NothingBeside>
__device__ __forceinline__ void find_best(const __half* rows, const Fragments& fragments,
                                          uint32_t constants, int (&best)[kGroups][4],
                                          Beside& beside = NothingBeside{}) {
  static_assert(kTiles % 4 == 0);
  constexpr int kHalves = 2 * kGroups;
  RowFragment<kDim> a[kHalves];
#pragma unroll
  for (int half = 0; half < kHalves; ++half) a[half].load(rows + half * 16 * kDim, constants);
#pragma unroll
  for (int i = 0; i < 4 * kGroups; ++i) best[i / 4][i % 4] = kLeast;
#pragma unroll
  for (int part = 0; part < kTiles / 4; ++part) {
    uint32_t b[4][kDim == 8 ? 2 : 1];
    fragments.take(part, b);
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
      float c[kHalves][4];
#pragma unroll
      for (int half = 0; half < kHalves; ++half) score_tile(a[half], b[tile], c[half]);
#pragma unroll
      for (int row = 0; row < 2 * kHalves; ++row) {
        int& most = best[row / 4][row % 4];
        most = maximum3(most, __float_as_int(c[row / 2][row % 2 * 2]),
                        __float_as_int(c[row / 2][row % 2 * 2 + 1]));
      }
    }
    beside(part);
  }
}

// The key of row nearest_row() of 32, for a single search: what QuadKeys does, without what it
// keeps in registers. base: the first centroid's number.
template <int kDim, int kTiles, class Fragments>
__device__ __forceinline__ int find_nearest(const __half* rows, const Fragments& fragments,
                                            int base) {
  int best[1][4];
  find_best<kDim, kTiles, 1>(rows, fragments, RowFragment<kDim>::constants(), best);
  const int lane = threadIdx.x & 31;
  const int first = 4095 - 63 - base - (lane & 3) * 2 * kTiles;
  const bool odd = lane & 1, high = lane & 2;
  int key[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int result = max(best[0][i] - kLeast, 0);
    key[i] = ((result & ~63) << 6) + first + (result & 63);
  }
  const int low_key =
      max(odd ? key[2] : key[0], __shfl_xor_sync(kFullWarp, odd ? key[0] : key[2], 1));
  const int high_key =
      max(odd ? key[3] : key[1], __shfl_xor_sync(kFullWarp, odd ? key[1] : key[3], 1));
  return max(high ? high_key : low_key, __shfl_xor_sync(kFullWarp, high ? low_key : high_key, 2));
}

// Exact search for one sub-vector by one warp, in fp32 and for any input. All lanes return the key.
template <int kDim>
__device__ __forceinline__ int exact_row(const __half* row, const int8_t* centroids, int size) {
  float k[kDim];
#pragma unroll
  for (int i = 0; i < kDim; ++i) k[i] = from_fixed(row[i]);
  float best = -INFINITY;
  int code = size - 1;
#pragma unroll 1
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
    const float k = from_fixed(row[i]);
    square = fmaf(k, k, square);
  }
  return !(square < FixedPoint<kDim>::kLimit);
}

// Whether that may be so for any of many rows; cheaper than is_far for each, and no less careful.
template <int kDim>
class FarDetector {
 public:
  // Of kCount consecutive sub-vectors.
  template <int kCount>
  __device__ __forceinline__ void look(const __half2 (&pairs)[kCount * kDim / 2]) {
#pragma unroll
    for (int row = 0; row < kCount; ++row) {
      const __half2* k = pairs + row * kDim / 2;
      __half2 square = __hmul2(k[0], k[0]);
#pragma unroll
      for (int i = 1; i < kDim / 2; ++i) square = __hfma2(k[i], k[i], square);
      largest_ = __hmax2_nan(largest_, square);
    }
  }
  // The same answer for all lanes.
  __device__ __forceinline__ bool found() const {
    // Half of the limit, less what fp16 rounds: of a far row one of two partial sums reaches it.
    constexpr float kPartial = 0.49f * FixedPoint<kDim>::kLimit * kOperandScale * kOperandScale;
    const float2 parts = __half22float2(largest_);
    return __any_sync(kFullWarp, !(parts.x < kPartial) || !(parts.y < kPartial));
  }

 private:
  __half2 largest_ = __float2half2_rn(0.0f);
};

// Whether it is so for any of a warp's rows, elements [count], a multiple of 8.
template <int kDim>
__device__ __forceinline__ bool any_far(const __half* fixed, int count) {
  FarDetector<kDim> far;
#pragma unroll 4
  for (int i = threadIdx.x & 31; i < count / 8; i += 32) {
    __half2 k[4];
    *reinterpret_cast<uint4*>(k) = reinterpret_cast<const uint4*>(fixed)[i];
    far.template look<8 / kDim>(k);
  }
  return far.found();
}

// A warp's rows, elements [count], as far inputs are searched for.
__device__ __forceinline__ void clamp_fixed(__half* fixed, int count) {
  for (int i = threadIdx.x & 31; i < count / 2; i += 32) {
    __half2* pair = reinterpret_cast<__half2*>(fixed) + i;
    *pair = clamp_fixed2(*pair);
  }
}

// What is left of a sub-vector for its next code; exact, because both are whole numbers of steps.
template <int kDim>
__device__ __forceinline__ void subtract_centroid(__half* row, const int8_t* source) {
  const Centroid<kDim> centroid(source);
#pragma unroll
  for (int i = 0; i < kDim; ++i) {
    row[i] = to_fixed(from_fixed(row[i]) - FixedPoint<kDim>::kSteps * centroid.value[i]);
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
