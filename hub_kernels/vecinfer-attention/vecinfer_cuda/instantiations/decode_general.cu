// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The kernel that takes any format, as the host sees it.
#include "../decode/general_engine.cuh"
#include "../decode/variants.h"

namespace vecinfer {

DecodeKernel general_decode_kernel() {
  DecodeKernel kernel;
  kernel.function = reinterpret_cast<const void*>(&decode_general_kernel);
  kernel.warps = GeneralEngine::kWarps;
  kernel.shared_bytes = GeneralEngine::kSharedBytes;
  kernel.rows_per_group = GeneralEngine::kRows;
  return kernel;
}

}  // namespace vecinfer
