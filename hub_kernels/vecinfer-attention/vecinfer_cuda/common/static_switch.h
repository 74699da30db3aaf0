// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Runtime values to template arguments; the only macros of the kernels. Unsupported values were
// refused before.
#pragma once

// Elements per sub-vector.
#define SUBVECTOR_DIM_SWITCH(value, NAME, ...) \
  [&] {                                        \
    if ((value) == 2) {                        \
      constexpr int NAME = 2;                  \
      return __VA_ARGS__();                    \
    } else if ((value) == 4) {                 \
      constexpr int NAME = 4;                  \
      return __VA_ARGS__();                    \
    } else {                                   \
      constexpr int NAME = 8;                  \
      return __VA_ARGS__();                    \
    }                                          \
  }()

// Elements of a head per lane, rounded up: D / 32.
#define LANE_DIMS_SWITCH(head_dim, NAME, ...) \
  [&] {                                       \
    if ((head_dim) <= 64) {                   \
      constexpr int NAME = 2;                 \
      return __VA_ARGS__();                   \
    } else if ((head_dim) <= 96) {            \
      constexpr int NAME = 3;                 \
      return __VA_ARGS__();                   \
    } else if ((head_dim) <= 128) {           \
      constexpr int NAME = 4;                 \
      return __VA_ARGS__();                   \
    } else {                                  \
      constexpr int NAME = 8;                 \
      return __VA_ARGS__();                   \
    }                                         \
  }()
