// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Where a code lies in a tile: the twin of vecinfer_hf/quantization/packing.py for this backend.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "params.h"

namespace vecinfer {

inline int padded_subvectors(const CodeFormat& format, int head_dim, bool is_value) {
  const int multiple = is_value ? 8 : 4;
  return (head_dim / format.subvector_dim + multiple - 1) / multiple * multiple;
}

inline int plane_bytes(const CodeFormat& format, int head_dim, bool is_value) {
  return kTile * padded_subvectors(format, head_dim, is_value) * format.bits_per_code / 8;
}

inline int side_bytes(const CodeFormat& format, int head_dim, bool is_value) {
  return format.num_codes * plane_bytes(format, head_dim, is_value);
}

// Place of (token, sub-vector) in a plane with room for `padded` sub-vectors.
inline int code_position(int token, int subvector, int padded, bool is_value) {
  const int half = token >> 4, row = token & 15;
  int lane, offset, length;
  if (is_value) {
    const int per_lane = padded / 8;
    lane = subvector / per_lane * 4 + ((row & 7) >> 1);
    offset = (half * 4 + (((row & 1) << 1) | (row >> 3))) * per_lane + subvector % per_lane;
    length = 8 * per_lane;
  } else {
    const int per_lane = padded / 4;
    lane = (row & 7) * 4 + subvector / per_lane;
    offset = (half * 2 + (row >> 3)) * per_lane + subvector % per_lane;
    length = 4 * per_lane;
  }
  const int chunk = length % 16 == 0 ? 16 : length % 8 == 0 ? 8 : 4;
  return offset / chunk * kTile * chunk + lane * chunk + offset % chunk;
}

// Where the codes of one side lie. position [32][subvectors] lives as long as the process.
struct Planes {
  int subvectors, padded, bits, plane_size, num_codes;
  int run;  // 4, 2 or 1: codes of so many sub-vectors of a token always lie side by side
  const uint16_t* position;

  // The code of more than 8 bits at a place of a plane.
  int wide(const uint8_t* plane, int place) const {
    const int high = bits - 8, bit = place * high;
    return plane[place] | ((plane[kTile * padded + bit / 8] >> (bit % 8)) & ((1 << high) - 1)) << 8;
  }
  void write(uint8_t* plane, int token, int subvector, int code) const {
    const int place = position[token * subvectors + subvector];
    plane[place] = static_cast<uint8_t>(code);
    if (bits == 8) return;
    const int high = bits - 8, bit = place * high;
    const int mask = ((1 << high) - 1) << (bit % 8);
    uint8_t& byte = plane[kTile * padded + bit / 8];
    byte = static_cast<uint8_t>((byte & ~mask) | ((code >> 8) << (bit % 8)));
  }
};

// The positions are made once for each shape and kept.
inline const uint16_t* code_positions(int subvectors, int padded, bool is_value) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, bool>, std::vector<uint16_t>> known;
  const std::lock_guard<std::mutex> guard(mutex);
  std::vector<uint16_t>& found = known[{subvectors, padded, is_value}];
  if (found.empty()) {
    for (int token = 0; token < kTile; ++token) {
      for (int sub = 0; sub < subvectors; ++sub) {
        found.push_back(static_cast<uint16_t>(code_position(token, sub, padded, is_value)));
      }
    }
  }
  return found.data();
}

inline Planes planes_of(const Side& side) {
  Planes planes;
  planes.subvectors = side.num_subvectors();
  planes.padded = padded_subvectors(side.format, side.head_dim, side.is_value);
  planes.bits = side.format.bits_per_code;
  planes.plane_size = plane_bytes(side.format, side.head_dim, side.is_value);
  planes.num_codes = side.format.num_codes;
  planes.position = code_positions(planes.subvectors, planes.padded, side.is_value);
  const int per_lane = planes.padded / (side.is_value ? 8 : 4);
  const auto runs_of = [&](int run) { return per_lane % run == 0 && planes.subvectors % run == 0; };
  planes.run = runs_of(4) ? 4 : runs_of(2) ? 2 : 1;
  return planes;
}

}  // namespace vecinfer
