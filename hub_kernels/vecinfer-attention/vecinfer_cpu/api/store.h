// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Tokens to codes in their tiles, shared by quantize and append.
#pragma once

#include "../common/dtype.h"
#include "../common/scratch.h"
#include "../isa/select.h"
#include "checks.h"

namespace vecinfer {

// What quantizing a token costs, in nanoseconds for one side of a head; only to choose threads.
inline double quantize_cost(const Side& side) {
  const double scores = double(side.head_dim) * side.format.size() * side.format.num_codes;
  const double full = side.transform.kind == TransformKind::kFull ? side.head_dim : 8;
  return scores * 0.03 + side.head_dim * full * 0.03;
}

// Writes `count` tokens to slots start .. start + count of one side of a pair. row(t) is where
// token t's elements are. The slots lie in tiles that no other thread writes; they have room.
template <class Row>
void store_codes(const Kernels& kernels, const CodesView& codes, const Side& side,
                 const Planes& planes, int64_t batch, int64_t head, int64_t start, int count,
                 Dtype dtype, const Row& row) {
  Scratch scratch;
  const int64_t stride = (side.head_dim + 15) / 16 * 16;
  float* rows = scratch.floats(count * stride);
  for (int t = 0; t < count; ++t) {
    load_floats(row(t), dtype, rows + t * stride, side.head_dim);
  }
  const int per_token = side.format.num_codes * planes.subvectors;
  auto* found = static_cast<uint16_t*>(scratch.bytes(int64_t(count) * per_token * 2));
  kernels.quantize_rows(side, head, rows, stride, count, found);
  for (int t = 0; t < count; ++t) {
    const int64_t slot = start + t;
    uint8_t* part = codes.tile(batch, head, slot / kTile) + side.tile_offset;
    for (int level = 0; level < side.format.num_codes; ++level) {
      const uint16_t* from = found + t * per_token + level * planes.subvectors;
      uint8_t* plane = part + level * planes.plane_size;
      for (int s = 0; s < planes.subvectors; ++s) {
        planes.write(plane, static_cast<int>(slot % kTile), s, from[s]);
      }
    }
  }
}

// Refuses to write through a block table that names no page for a tile of first .. last.
inline void check_pages(const CodesView& codes, int64_t batch, int64_t first, int64_t last) {
  if (codes.block_table == nullptr) return;
  for (int64_t tile = first; tile < last; ++tile) {
    VECINFER_CHECK(codes.page(batch, tile) >= 0, "block_table names page ",
                   codes.block_table[batch * codes.max_pages + tile / codes.tiles_per_page],
                   " for tile ", tile, " of row ", batch, ", but there are ", codes.num_pages,
                   " pages; give a row its pages before its tokens are quantized.");
  }
}

}  // namespace vecinfer
