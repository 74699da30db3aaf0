// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The few instructions that C++ has no name for. All but programmatic launch exist from sm_80 on.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace vecinfer {

constexpr unsigned kFullWarp = 0xffffffffu;

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Keeps NaN, so that a bad query gives a bad output and not a plausible one.
__device__ __forceinline__ float max_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// Place of the n-th (from 0) set bit.
__device__ __forceinline__ int nth_bit(unsigned mask, int n) {
#pragma unroll 1
  for (int skipped = 0; skipped < n; ++skipped) mask &= mask - 1;
  return __ffs(mask) - 1;
}

// x, about which the compiler knows nothing.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

__device__ __forceinline__ uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}

// Transposes an 8 x 8 matrix of 16-bit elements held by the warp, row lane / 4, columns 2 (lane %
// 4).
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// c += a b for int8 a [16, 32] and b [32, 8].
__device__ __forceinline__ void mma_s8s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c += a b for int8 a [16, 32] and uint8 b [32, 8].
__device__ __forceinline__ void mma_s8u8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// 16-bit floats of one of the two kinds, a pair per register.
template <bool kBf16>
struct HalfPair {
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    if constexpr (kBf16) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
      return reinterpret_cast<const uint32_t&>(pair);
    } else {
      const __half2 pair = __floats2half2_rn(low, high);
      return reinterpret_cast<const uint32_t&>(pair);
    }
  }

  static __device__ __forceinline__ float2 unpack(uint32_t bits) {
    if constexpr (kBf16) {
      return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
    } else {
      return __half22float2(reinterpret_cast<const __half2&>(bits));
    }
  }

  // c += a b for a [16, 16] and b [16, 8].
  static __device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                             uint32_t a3, uint32_t b0, uint32_t b1) {
    if constexpr (kBf16) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
          "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
  }

  // c += a b for a [16, 8] and b [8, 8].
  static __device__ __forceinline__ void mma_short(float (&c)[4], uint32_t a0, uint32_t a1,
                                                   uint32_t b0) {
    if constexpr (kBf16) {
      asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
          "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a0), "r"(a1), "r"(b0));
    } else {
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
          "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a0), "r"(a1), "r"(b0));
    }
  }
};

// x0 and x1 as two bf16 each, whose sum has 16 bits of mantissa.
__device__ __forceinline__ void split_bf16(float x0, float x1, uint32_t& high, uint32_t& low) {
  high = HalfPair<true>::pack(x0, x1);
  const float2 rounded = HalfPair<true>::unpack(high);
  low = HalfPair<true>::pack(x0 - rounded.x, x1 - rounded.y);
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A load that stays where it is written, so that it is on its way early.
__device__ __forceinline__ int load_early(const int* global) {
  int x;
  asm volatile("ld.global.s32 %0, [%1];" : "=r"(x) : "l"(global));
  return x;
}

__device__ __forceinline__ float load_early(const float* global) {
  float x;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(global));
  return x;
}

// 16 bytes go around L1.
template <int kBytes>
__device__ __forceinline__ void copy_async(uint32_t shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(global), "n"(kBytes)
                 : "memory");
  }
}

// The same for what is read once: L2 gives it up first, and keeps codebooks, queries, records and
// instructions.
template <int kBytes>
__device__ __forceinline__ void stream_async(uint32_t shared, const void* global) {
  // What createpolicy.fractional.L2::evict_first makes; as a constant it takes no registers.
  // (tests/test_build.py looks whether ptxas has kept it.)
  constexpr uint64_t policy = 0x12f0000000000000;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared),
                 "l"(global), "l"(policy)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global.L2::cache_hint [%0], [%1], %3, %2;" ::"r"(shared),
                 "l"(global), "l"(policy), "n"(kBytes)
                 : "memory");
  }
}

__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// kBytes of shared memory into registers.
template <int kBytes>
__device__ __forceinline__ void load_shared(uint32_t* words, uint32_t address) {
  if constexpr (kBytes == 16) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address));
  } else if constexpr (kBytes == 8) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(address));
  } else {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(words[0]) : "r"(address));
  }
}

// Four 8 x 8 matrices of 16-bit elements, whose rows of 16 bytes lanes 8 i.. + 7 have the addresses
// of.
__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t (&words)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}

// Lets the next kernel of this operator start its prologue. Does nothing unless that kernel was
// launched for it.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits for everything that the kernel before this one wrote.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace vecinfer
