// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Which instruction set serves this machine.
#pragma once

#include "../common/decode_params.h"

namespace vecinfer {

// The best one that the machine has and, if the environment variable VECINFER_CPU_PATH names one
// (portable, avx2, avx512, vnni), none above it. Read at each call, so that tests can change it.
const Kernels& select_kernels();

}  // namespace vecinfer
