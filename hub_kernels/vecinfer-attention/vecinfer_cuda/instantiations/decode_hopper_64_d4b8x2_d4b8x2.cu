// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Written by generate_instantiations.py.
#include "decode_variant.cuh"

namespace vecinfer {

DecodeKernel decode_hopper_64_d4b8x2_d4b8x2(int rows) {
  if (rows <= 4) return decode_variant<DecodeTraits<64, D4B8x2, D4B8x2, 1, Target::kHopper>>();
  if (rows <= 8) return decode_variant<DecodeTraits<64, D4B8x2, D4B8x2, 2, Target::kHopper>>();
  return decode_variant<DecodeTraits<64, D4B8x2, D4B8x2, 4, Target::kHopper>>();
}

}  // namespace vecinfer
