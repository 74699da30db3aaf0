// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VBMI (byte permutations) and VNNI (byte dot products): the look-ups of vnni/ for
// 8-bit codes, and the kernels of avx512.cpp for everything else.
#if defined(__x86_64__)
#include <immintrin.h>

#include "../common/decode_params.h"
#include "../common/dtype.h"
#include "../common/scratch.h"
#include "../vnni/transpose.h"

namespace vecinfer {
namespace avx512 {
extern const Kernels kernels;
}

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2,fma,f16c")
namespace vnni {

// clang-format off
// In this order: later ones use earlier ones.
#include "../vnni/lookup.h"
#include "../vnni/keys.h"
#include "../vnni/weights.h"
#include "../vnni/values.h"
#include "../vnni/decode.h"
// clang-format on

}  // namespace vnni
#pragma GCC pop_options
}  // namespace vecinfer
#endif
