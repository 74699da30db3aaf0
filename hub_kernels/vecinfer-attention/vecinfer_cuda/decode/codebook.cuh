// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// A head's centroids in shared memory, replicated so that 32 lanes look up 32 codes without a bank
// conflict.
#pragma once

#include "../common/instructions.cuh"
#include "traits.cuh"

namespace vecinfer {

template <class Traits>
class Codebook {
 public:
  // The block fills all tables of kv head `head`; a barrier must follow. `between` is called once,
  // behind the first loads: what it fetches must not stand before them in the queue to memory.
  template <typename Between>
  static __device__ __forceinline__ void fill(const DecodeParams& p, int head, char* shared,
                                              Between between) {
    constexpr int kWords = Traits::kTableBytes / 16;
    constexpr int kPerThread = kWords / Traits::kThreads;
    constexpr int kBatch = kPerThread % 8 == 0 ? 8 : 4;
    static_assert(kWords % Traits::kThreads == 0 && kPerThread % kBatch == 0);
#pragma unroll
    for (int first = 0; first < kPerThread; first += kBatch) {
      uint2 entry[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        entry[i] = load(p, head, threadIdx.x + (first + i) * Traits::kThreads);
      }
      if (first == 0) between();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        reinterpret_cast<uint4*>(shared)[threadIdx.x + (first + i) * Traits::kThreads] =
            make_uint4(entry[i].x, entry[i].y, entry[i].x, entry[i].y);
      }
    }
  }

  // What a lane's addresses have in common, for sub-vectors of kDim elements.
  template <int kDim>
  static __device__ __forceinline__ uint32_t lane_base() {
    const int lane = threadIdx.x & 31;
    return kDim == 4 ? lane * 4 : (lane & 15) * 8;
  }

  // The centroid (kDim / 4 words) of byte `byte` of a word of codes. Entries are 128 bytes apart,
  // so one dot product of bytes makes the address, in a pipe that the loop uses little otherwise.
  template <int kTable, int kDim>
  static __device__ __forceinline__ void look_up(uint32_t* centroid, uint32_t codes, int byte,
                                                 uint32_t base) {
    const uint32_t address = __dp4a(codes, 128u << (8 * byte), base);
    constexpr int kOffset = kSharedBase + Traits::table_offset(kTable);
    if constexpr (kDim == 4) {
      asm volatile("ld.shared.u32 %0, [%1 + %2];" : "=r"(centroid[0]) : "r"(address), "n"(kOffset));
    } else {
      asm volatile("ld.shared.v2.u32 {%0, %1}, [%2 + %3];"
                   : "=r"(centroid[0]), "=r"(centroid[1])
                   : "r"(address), "n"(kOffset));
    }
  }

 private:
  // What is added to the bytes of values: 128 where they are read as they are.
  static constexpr unsigned kValueBias = Traits::kWide ? 0x80808080u : 0u;

  // The centroid that fills 16-byte word `word` of the tables, as 8 bytes.
  static __device__ __forceinline__ uint2 load(const DecodeParams& p, int head, int word) {
    const int entry = (word >> 3) & 255;
    const int table = word >> 11;
    if constexpr (Traits::Key::kDim == Traits::Value::kDim) {
      // Without branches: everything waits for these loads.
      constexpr int kKeys = Traits::Key::kLevels, kValues = Traits::Value::kLevels;
      const bool is_value = table >= kKeys;
      const int level = is_value ? head * kValues + table - kKeys : head * kKeys + table;
      return load_entry<Traits::Key::kDim>(is_value ? p.value.centroids : p.key.centroids, level,
                                           entry, is_value ? kValueBias : 0u);
    }
    if (table < Traits::Key::kLevels) {
      return load_entry<Traits::Key::kDim>(p.key.centroids, head * Traits::Key::kLevels + table,
                                           entry, 0u);
    }
    return load_entry<Traits::Value::kDim>(
        p.value.centroids, head * Traits::Value::kLevels + table - Traits::Key::kLevels, entry,
        kValueBias);
  }

  // level: counted over all heads. bias: changes the sign of each byte, which adds 128.
  template <int kDim>
  static __device__ __forceinline__ uint2 load_entry(const int8_t* centroids, int level, int entry,
                                                     unsigned bias) {
    const int8_t* source = centroids + (level * 256 + entry) * kDim;
    if constexpr (kDim == 4) {
      const unsigned word = __ldg(reinterpret_cast<const unsigned*>(source)) ^ bias;
      return make_uint2(word, word);
    } else {
      const uint2 words = __ldg(reinterpret_cast<const uint2*>(source));
      return make_uint2(words.x ^ bias, words.y ^ bias);
    }
  }
};

}  // namespace vecinfer
