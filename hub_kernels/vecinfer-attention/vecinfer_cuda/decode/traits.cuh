// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Compile-time sizes of the int8 decode kernel and the layout of its shared memory.
#pragma once

#include "../common/packing.cuh"
#include "params.h"

namespace vecinfer {

// Dynamic shared memory starts behind the kilobyte that CUDA reserves on sm_80 and later (the host
// checks the attribute), so that table addresses fold into the immediate of a load.
constexpr int kSharedBase = 1024;

// Which device a kernel is laid out for.
enum class Target {
  kHopper,   // 227 KB of shared memory per block, sm_90
  kPortable  // 99 KB, any device from sm_80 on
};

constexpr int shared_bytes(Target target) { return target == Target::kHopper ? 232448 : 101376; }

// Of one row of queries: log2 score of an integer step, and of the key mean.
struct RowScale {
  float step, offset;
};

// A format the int8 kernel takes: 8-bit codes, 4 or 8 elements, one or two levels.
template <int kDim_, int kLevels_>
struct ByteFormat {
  static constexpr int kDim = kDim_;
  static constexpr int kLevels = kLevels_;
  static constexpr CodeFormat kFormat{kDim_, 8, kLevels_};
};
using D4B8 = ByteFormat<4, 1>;
using D4B8x2 = ByteFormat<4, 2>;
using D8B8 = ByteFormat<8, 1>;

template <int kHeadDim_, class Key_, class Value_, int kRowTiles_, Target kTarget_>
struct DecodeTraits {
  static constexpr int kHeadDim = kHeadDim_;
  using Key = Key_;
  using Value = Value_;
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr Target kTarget = kTarget_;
  static constexpr int kRows = kRowTiles * kRowTile;
  // fp16 weights (wide_codes.cuh) instead of integers of two bytes (codes.cuh).
  static constexpr bool kWide = kTarget == Target::kHopper && kRowTiles % 2 == 0;

  // Bytes of codes per lane and level, and in how large words they lie (see ../common/packing.cuh).
  static constexpr int kKeyBytes = kHeadDim / Key::kDim;
  static constexpr int kValueBytes = kHeadDim / Value::kDim;
  static constexpr int chunk(int bytes) { return bytes % 16 == 0 ? 16 : 8; }
  static constexpr int kKeyChunk = chunk(kKeyBytes);
  static constexpr int kValueChunk = chunk(kValueBytes);
  static constexpr int kKeyPlane = kKeyBytes * 32;
  static constexpr int kValuePlane = kValueBytes * 32;
  static constexpr int kTileBytes = kKeyPlane * Key::kLevels + kValuePlane * Value::kLevels;
  static_assert(kKeyPlane == plane_bytes(Key::kFormat, kHeadDim, false));
  static_assert(kValuePlane == plane_bytes(Value::kFormat, kHeadDim, true));

  // Tables: 128 bytes per entry (4 bytes for each lane, or 8 for each pair of lanes 16 apart).
  static constexpr int kTables = Key::kLevels + Value::kLevels;
  static constexpr int kTableBytes = kTables * 32768;
  static constexpr int table_offset(int table) { return table * 32768; }

  // 16 warps as long as 128 registers hold the accumulators and fragments.
  static constexpr int kAccumulators = kRowTiles * kHeadDim / (kWide ? 8 : 4);
  static constexpr int kRecordFloats = kRows * (kHeadDim + 2);
  // Row scales; then BlockPieces, with room for the query's transform at first.
  static constexpr int kScratchFloats = 2 * kHeadDim;
  static constexpr int scale_bytes(int warps) {
    return warps * kRows * static_cast<int>(sizeof(RowScale));
  }
  static constexpr int meta_bytes(int warps) {
    return scale_bytes(warps) + 4 * (kScratchFloats + 4 * warps);
  }
  static constexpr int budget(int warps) {
    return shared_bytes(kTarget) - kTableBytes - meta_bytes(warps);
  }
  static constexpr int stages_of(int warps) {
    return (budget(warps) - warps * kRecordFloats * 4) / (warps * kTileBytes);
  }
  static constexpr int choose_warps() {
    const bool small = kAccumulators <= 32 && kRowTiles <= 2 && kTables <= 2;
    if (kTarget == Target::kHopper && small && stages_of(16) >= 2) return 16;
    if (stages_of(8) >= 1) return 8;
    return 4;
  }
  static constexpr int kWarps = choose_warps();
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRegisters = kWarps == 16 ? 128 : 255;
  // 64 KB in flight per multiprocessor saturate memory; more only delays other loads.
  static constexpr int kRingBytes = 65536;
  static constexpr int kWantedStages =
      kRingBytes / (kWarps * kTileBytes) > 2 ? kRingBytes / (kWarps * kTileBytes) : 2;
  static constexpr int kStages =
      stages_of(kWarps) < kWantedStages ? stages_of(kWarps) : kWantedStages;
  static_assert(kStages >= 1, "the codebooks do not fit this device's shared memory");

  // A warp's ring of tiles also serves as its ring of exact tokens: chunks of a unit's keys or
  // values.
  static constexpr int kExactChunk = kExactUnit * kHeadDim * 2;
  static constexpr int kRing =
      kStages * kTileBytes > kExactChunk ? kStages * kTileBytes : kExactChunk;
  static constexpr int kExactSlots = kRing / kExactChunk;

  static constexpr int kRecordOffset = kTableBytes;
  static constexpr int kRecordBytes = kWarps * kRecordFloats * 4;
  // A second record per warp if there is room.
  static constexpr bool kAsideShared = budget(kWarps) - 2 * kRecordBytes - kWarps * kRing >= 0;
  static constexpr int kRingOffset = kRecordOffset + (kAsideShared ? 2 : 1) * kRecordBytes;
  static constexpr int kScaleOffset = kRingOffset + kWarps * kRing;
  static constexpr int kMetaOffset = kScaleOffset + scale_bytes(kWarps);
  static constexpr int kSharedBytes = kScaleOffset + meta_bytes(kWarps);
  static_assert(kSharedBytes <= shared_bytes(kTarget));

  // Tiles after which int32 sums of 32 * 255 * 128 per level and tile are moved to fp32.
  static constexpr int kFlushTiles = 1024 / Value::kLevels;
};

}  // namespace vecinfer
