// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// One variant of the byte-code kernel as the host sees it.
#pragma once

#include "../decode/fast_engine.cuh"
#include "../decode/variants.h"

namespace vecinfer {

template <class Traits>
DecodeKernel decode_variant() {
  DecodeKernel kernel;
  kernel.function = reinterpret_cast<const void*>(&decode_fast_kernel<Traits>);
  kernel.warps = Traits::kWarps;
  kernel.shared_bytes = Traits::kSharedBytes;
  kernel.rows_per_group = Traits::kRows;
  kernel.exact_slots = Traits::kExactSlots;
  return kernel;
}

}  // namespace vecinfer
