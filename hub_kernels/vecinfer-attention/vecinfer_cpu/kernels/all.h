// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set, in the namespace VECINFER_ISA with VECINFER_LANES lanes.
// Included once by each file of isa/, behind its target pragma.

namespace vecinfer {
namespace VECINFER_ISA {

#include "../simd/vector.h"
// clang-format off
// In this order: later ones use earlier ones.
#include "matrix.h"
#include "nearest.h"
#include "rows.h"
#include "softmax.h"
#include "decode.h"
#include "dequantize.h"
// clang-format on

extern const Kernels kernels;
const Kernels kernels = {VECINFER_ISA_NAME, quantize_rows, dequantize, attend_exact,
                         code_queries,      attend_codes,  finish};

}  // namespace VECINFER_ISA
}  // namespace vecinfer
