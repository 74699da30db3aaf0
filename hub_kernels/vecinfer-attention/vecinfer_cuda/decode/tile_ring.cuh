// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// How a warp streams tiles of codes from global memory to its registers.
#pragma once

#include "../common/instructions.cuh"
#include "traits.cuh"

namespace vecinfer {

// The warp's ring of tiles in shared memory. Each lane copies what it will read itself, so no
// barrier is needed.
template <class Traits>
class TileRing {
 public:
  __device__ __forceinline__ TileRing(const char* shared, int warp)
      : address_(shared_address(shared) + warp * Traits::kRing) {}

  // Starts a run of `count` tiles with its first; fill() fetches as many as there is room for.
  __device__ __forceinline__ void start(const uint8_t* tiles, int count) {
    source_ = tiles;
    count_ = count;
    stage_ = 0;
    issue(0, true);
  }
  __device__ __forceinline__ void fill() {
#pragma unroll
    for (int stage = 1; stage < Traits::kStages; ++stage) issue(stage, stage < count_);
  }

  // Fetches the next tile, or commits an empty group, so that groups count tiles.
  __device__ __forceinline__ void issue(int stage, bool more) {
    if (more) {
      const int lane = threadIdx.x & 31;
      const uint32_t shared = address_ + stage * Traits::kTileBytes;
#pragma unroll
      for (int offset = 0; offset < kKeys; offset += 32 * Traits::kKeyChunk) {
        stream_async<Traits::kKeyChunk>(shared + offset + lane * Traits::kKeyChunk,
                                        source_ + offset + lane * Traits::kKeyChunk);
      }
#pragma unroll
      for (int offset = kKeys; offset < Traits::kTileBytes; offset += 32 * Traits::kValueChunk) {
        stream_async<Traits::kValueChunk>(shared + offset + lane * Traits::kValueChunk,
                                          source_ + offset + lane * Traits::kValueChunk);
      }
      source_ += Traits::kTileBytes;
    }
    commit_copies();
  }

  __device__ __forceinline__ void load_keys(uint32_t* codes) const {
    load<Traits::kKeyChunk>(codes, 0, kKeys);
  }
  __device__ __forceinline__ void load_values(uint32_t* codes, int stage) const {
    load<Traits::kValueChunk>(codes, kKeys, Traits::kTileBytes, stage);
  }

  __device__ __forceinline__ int stage() const { return stage_; }
  __device__ __forceinline__ uint32_t address() const { return address_; }
  __device__ __forceinline__ void advance() {
    stage_ = stage_ == Traits::kStages - 1 ? 0 : stage_ + 1;
  }

 private:
  static constexpr int kKeys = Traits::kKeyPlane * Traits::Key::kLevels;

  template <int kChunk>
  __device__ __forceinline__ void load(uint32_t* codes, int begin, int end) const {
    load<kChunk>(codes, begin, end, stage_);
  }
  template <int kChunk>
  __device__ __forceinline__ void load(uint32_t* codes, int begin, int end, int stage) const {
    const uint32_t shared = address_ + stage * Traits::kTileBytes + (threadIdx.x & 31) * kChunk;
#pragma unroll
    for (int offset = begin, i = 0; offset < end; offset += 32 * kChunk, i += kChunk / 4) {
      load_shared<kChunk>(codes + i, shared + offset);
    }
  }

  uint32_t address_;
  const uint8_t* source_;
  int count_;
  int stage_;
};

}  // namespace vecinfer
