// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// How a warp streams tiles of codes from global memory to its registers.
#pragma once

#include <climits>

#include "../common/instructions.cuh"
#include "traits.cuh"

namespace vecinfer {

// The warp's ring of tiles in shared memory. Each lane copies what it will read itself, so no
// barrier is needed.
template <class Traits>
class TileRing {
 public:
  __device__ __forceinline__ TileRing(const CodesView& codes, const char* shared, int warp)
      : codes_(codes),
        lane_address_(shared_address(shared) + warp * Traits::kRing + lane() * Traits::kKeyChunk) {
    // Kept and not made again for each tile.
    asm volatile("" : "+r"(lane_address_));
  }

  // Starts a run of `count` tiles of batch row b with tile `first`; fill() fetches as many as there
  // is room for.
  __device__ __forceinline__ void start(int b, int first, int count) {
    source_ = code_tile(codes_, b, head(), first) + lane() * Traits::kKeyChunk;
    left_ = INT_MAX;
    if (codes_.block_table != nullptr) {
      const int index = codes_.by_page.divide(first);
      left_ = (index + 1) * codes_.tiles_per_page - first;
      next_ = b * codes_.max_pages + index + 1;
    }
    count_ = count;
    stage_ = 0;
    issue(0, true);
  }
  __device__ __forceinline__ void fill() {
#pragma unroll
    for (int stage = 1; stage < Traits::kStages; ++stage) {
      issue(stage * Traits::kTileBytes, stage < count_);
    }
  }

  // Fetches the next tile, or commits an empty group, so that groups count tiles. stage: its first
  // byte in the ring, as everywhere here.
  __device__ __forceinline__ void issue(int stage, bool more) {
    if (more) {
      if (left_ == 0) turn_page();
      --left_;
      const uint32_t shared = lane_address_ + stage;
#pragma unroll
      for (int offset = 0; offset < kKeys; offset += 32 * Traits::kKeyChunk) {
        stream_async<Traits::kKeyChunk>(shared + offset, source_ + offset);
      }
#pragma unroll
      for (int offset = kKeys; offset < Traits::kTileBytes; offset += 32 * Traits::kValueChunk) {
        const int place = offset + value_shift();
        stream_async<Traits::kValueChunk>(shared + place, source_ + place);
      }
      source_ += Traits::kTileBytes;
    }
    commit_copies();
  }

  __device__ __forceinline__ void load_keys(uint32_t* codes) const {
    load<Traits::kKeyChunk>(codes, lane_address_ + stage_, 0, kKeys);
  }
  __device__ __forceinline__ void load_values(uint32_t* codes, int stage) const {
    load<Traits::kValueChunk>(codes, lane_address_ + stage + value_shift(), kKeys,
                              Traits::kTileBytes);
  }

  __device__ __forceinline__ int stage() const { return stage_; }
  __device__ __forceinline__ uint32_t address() const {
    return lane_address_ - lane() * Traits::kKeyChunk;
  }
  __device__ __forceinline__ void advance() {
    constexpr int kLast = (Traits::kStages - 1) * Traits::kTileBytes;
    stage_ = stage_ == kLast ? 0 : stage_ + Traits::kTileBytes;
  }

 private:
  static constexpr int kKeys = Traits::kKeyPlane * Traits::Key::kLevels;

  static __device__ __forceinline__ int lane() { return threadIdx.x & 31; }
  // As in BlockPlace; a member would take a register.
  static __device__ __forceinline__ int head() { return blockIdx.z; }
  // A lane's values lie that much further in a chunk than its keys.
  static __device__ __forceinline__ int value_shift() {
    return lane() * (Traits::kValueChunk - Traits::kKeyChunk);
  }

  // Goes on with the next page of the row.
  __device__ __forceinline__ void turn_page() {
    source_ = codes_.data + codes_.block_table[next_] * codes_.page_stride +
              head() * codes_.head_stride + lane() * Traits::kKeyChunk;
    left_ = codes_.tiles_per_page;
    ++next_;
  }

  template <int kChunk>
  static __device__ __forceinline__ void load(uint32_t* codes, uint32_t shared, int begin,
                                              int end) {
#pragma unroll
    for (int offset = begin, i = 0; offset < end; offset += 32 * kChunk, i += kChunk / 4) {
      load_shared<kChunk>(codes + i, shared + offset);
    }
  }

  const CodesView& codes_;
  int next_;               // of the row's pages, its place in the block table
  int left_;               // tiles of the page that the next tile lies in
  uint32_t lane_address_;  // of this lane's part of the ring
  const uint8_t* source_;  // this lane's part of the next tile
  int count_;
  int stage_;
};

}  // namespace vecinfer
