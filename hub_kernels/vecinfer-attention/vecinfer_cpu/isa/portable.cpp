// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The baseline of the compiler's target: SSE2 on x86-64, NEON on AArch64.
#include "../common/decode_params.h"
#include "../common/dtype.h"
#include "../common/scratch.h"

#define VECINFER_ISA portable
#define VECINFER_ISA_NAME "portable"
#define VECINFER_LANES 4
#include "../kernels/all.h"
