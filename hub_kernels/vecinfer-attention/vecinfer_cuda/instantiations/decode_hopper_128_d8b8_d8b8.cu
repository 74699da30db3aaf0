// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Written by generate_instantiations.py.
#include "decode_variant.cuh"

namespace vecinfer {

DecodeKernel decode_hopper_128_d8b8_d8b8(int rows) {
  if (rows <= 4) return decode_variant<DecodeTraits<128, D8B8, D8B8, 1, Target::kHopper>>();
  if (rows <= 8) return decode_variant<DecodeTraits<128, D8B8, D8B8, 2, Target::kHopper>>();
  return decode_variant<DecodeTraits<128, D8B8, D8B8, 4, Target::kHopper>>();
}

}  // namespace vecinfer
