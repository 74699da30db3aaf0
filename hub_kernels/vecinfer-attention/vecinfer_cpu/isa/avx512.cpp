// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What a machine with avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c runs.
#include "../common/decode_params.h"
#include "../common/dtype.h"
#include "../common/scratch.h"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#define VECINFER_ISA avx512
#define VECINFER_ISA_NAME "avx512"
#define VECINFER_LANES 16
#include "../kernels/all.h"
#pragma GCC pop_options
#endif
