// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The compiled variants of the main kernel, as the host sees them.
#pragma once

#include "../common/params.h"

namespace vecinfer {

struct DecodeKernel {
  const void* function = nullptr;  // null: there is no such variant
  int warps = 0;
  int shared_bytes = 0;
  int rows_per_group = 0;
  int exact_slots = 0;  // chunks of exact tokens in flight
};

// A byte-code variant for at least `rows` rows if there is one, else the widest.
DecodeKernel fast_decode_kernel(bool hopper, int head_dim, const CodeFormat& key,
                                const CodeFormat& value, int rows);

// The kernel that takes any format.
DecodeKernel general_decode_kernel();

}  // namespace vecinfer
