// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// A plane of two tiles (64 tokens), in packing's order, to one vector of 64 tokens for each
// sub-vector. A byte's address in the planes is, for power-of-two sizes, a permutation of the bits
// of token and sub-vector; each step exchanges one bit of the register number with one of the
// byte's place in the register, by one vpermi2b per register.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "../common/packing.h"

namespace vecinfer {

struct TransposePlan {
  struct Step {
    int pair;  // the register bit that is exchanged: registers r and r + pair
    alignas(64) uint8_t first[64], second[64];
  };
  int registers = 0;  // 0: no such permutation, code by code instead
  std::vector<Step> steps;
  std::vector<uint8_t> subvector;  // of each register, after the steps
};

inline int bit_number(int single) {
  int number = 0;
  while (single >> number != 1) ++number;
  return number;
}

inline TransposePlan make_transpose_plan(int subvectors, int padded, bool is_value) {
  TransposePlan plan;
  if (subvectors != padded || (subvectors & (subvectors - 1)) != 0 || subvectors > 256) return plan;
  const int sub_bits = bit_number(subvectors), bits = 6 + sub_bits;
  // label[i]: what bit i of an address is: 0 .. 4 of the token, 5 the tile, 6 + j of the
  // sub-vector.
  std::vector<int> label(static_cast<size_t>(bits), -1);
  label[static_cast<size_t>(bits - 1)] = 5;  // the second tile's plane lies behind the first one's
  const auto place = [&](int token, int sub) {
    return code_position(token, sub, padded, is_value);
  };
  for (int i = 0; i < 5 + sub_bits; ++i) {
    const int address = i < 5 ? place(1 << i, 0) : place(0, 1 << (i - 5));
    if (address == 0 || (address & (address - 1)) != 0) return plan;
    label[static_cast<size_t>(bit_number(address))] = i < 5 ? i : i + 1;
  }
  for (int token = 0; token < kTile; ++token) {
    for (int sub = 0; sub < subvectors; ++sub) {
      int address = 0;
      for (int i = 0; i < 5; ++i) address |= token >> i & 1 ? place(1 << i, 0) : 0;
      for (int j = 0; j < sub_bits; ++j) address |= sub >> j & 1 ? place(0, 1 << j) : 0;
      if (address != place(token, sub)) return plan;
    }
  }
  for (int high = 6; high < bits; ++high) {
    if (label[static_cast<size_t>(high)] >= 6) continue;
    int low = 0;
    while (label[static_cast<size_t>(low)] < 6) ++low;
    TransposePlan::Step step;
    step.pair = 1 << (high - 6);
    for (int byte = 0; byte < 64; ++byte) {
      const int other = byte >> low & 1 ? 64 : 0;
      step.first[byte] = static_cast<uint8_t>((byte & ~(1 << low)) | other);
      step.second[byte] = static_cast<uint8_t>(byte | (1 << low) | other);
    }
    plan.steps.push_back(step);
    std::swap(label[static_cast<size_t>(low)], label[static_cast<size_t>(high)]);
  }
  if (plan.steps.empty()) return plan;
  // The last step also puts the tokens of a register in their order.
  TransposePlan::Step& last = plan.steps.back();
  TransposePlan::Step ordered = last;
  for (int token = 0; token < 64; ++token) {
    int byte = 0;
    for (int i = 0; i < 6; ++i) byte |= (token >> label[static_cast<size_t>(i)] & 1) << i;
    ordered.first[token] = last.first[byte];
    ordered.second[token] = last.second[byte];
  }
  last = ordered;
  for (int r = 0; r < subvectors; ++r) {
    int sub = 0;
    for (int i = 0; i < sub_bits; ++i)
      sub |= (r >> i & 1) << (label[static_cast<size_t>(6 + i)] - 6);
    plan.subvector.push_back(static_cast<uint8_t>(sub));
  }
  plan.registers = subvectors;
  return plan;
}

// Made once for each shape and kept.
inline const TransposePlan& transpose_plan(const Planes& planes, bool is_value) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, bool>, TransposePlan> known;
  const std::lock_guard<std::mutex> guard(mutex);
  const std::tuple<int, int, bool> shape{planes.subvectors, planes.padded, is_value};
  const auto found = known.find(shape);
  if (found != known.end()) return found->second;
  return known[shape] = make_transpose_plan(planes.subvectors, planes.padded, is_value);
}

}  // namespace vecinfer
