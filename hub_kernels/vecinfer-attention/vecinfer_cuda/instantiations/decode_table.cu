// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Written by generate_instantiations.py.
#include "../decode/traits.cuh"
#include "../decode/variants.h"

namespace vecinfer {

DecodeKernel decode_hopper_64_d4b8_d4b8(int rows);
DecodeKernel decode_hopper_64_d4b8x2_d4b8x2(int rows);
DecodeKernel decode_hopper_64_d8b8_d8b8(int rows);
DecodeKernel decode_hopper_128_d4b8_d4b8(int rows);
DecodeKernel decode_hopper_128_d4b8_d4b8x2(int rows);
DecodeKernel decode_hopper_128_d4b8_d8b8(int rows);
DecodeKernel decode_hopper_128_d4b8x2_d4b8(int rows);
DecodeKernel decode_hopper_128_d4b8x2_d4b8x2(int rows);
DecodeKernel decode_hopper_128_d4b8x2_d8b8(int rows);
DecodeKernel decode_hopper_128_d8b8_d4b8(int rows);
DecodeKernel decode_hopper_128_d8b8_d4b8x2(int rows);
DecodeKernel decode_hopper_128_d8b8_d8b8(int rows);
DecodeKernel decode_hopper_256_d4b8_d4b8(int rows);
DecodeKernel decode_hopper_256_d4b8x2_d4b8x2(int rows);
DecodeKernel decode_hopper_256_d8b8_d8b8(int rows);
DecodeKernel decode_portable_64_d4b8_d4b8(int rows);
DecodeKernel decode_portable_64_d8b8_d8b8(int rows);
DecodeKernel decode_portable_128_d4b8_d4b8(int rows);
DecodeKernel decode_portable_128_d4b8_d8b8(int rows);
DecodeKernel decode_portable_128_d8b8_d4b8(int rows);
DecodeKernel decode_portable_128_d8b8_d8b8(int rows);
DecodeKernel decode_portable_256_d4b8_d4b8(int rows);
DecodeKernel decode_portable_256_d8b8_d8b8(int rows);

namespace {

struct Entry {
  bool hopper;
  int head_dim;
  CodeFormat key;
  CodeFormat value;
  DecodeKernel (*find)(int rows);
};

constexpr Entry kEntries[] = {
    {true, 64, D4B8::kFormat, D4B8::kFormat, decode_hopper_64_d4b8_d4b8},
    {true, 64, D4B8x2::kFormat, D4B8x2::kFormat, decode_hopper_64_d4b8x2_d4b8x2},
    {true, 64, D8B8::kFormat, D8B8::kFormat, decode_hopper_64_d8b8_d8b8},
    {true, 128, D4B8::kFormat, D4B8::kFormat, decode_hopper_128_d4b8_d4b8},
    {true, 128, D4B8::kFormat, D4B8x2::kFormat, decode_hopper_128_d4b8_d4b8x2},
    {true, 128, D4B8::kFormat, D8B8::kFormat, decode_hopper_128_d4b8_d8b8},
    {true, 128, D4B8x2::kFormat, D4B8::kFormat, decode_hopper_128_d4b8x2_d4b8},
    {true, 128, D4B8x2::kFormat, D4B8x2::kFormat, decode_hopper_128_d4b8x2_d4b8x2},
    {true, 128, D4B8x2::kFormat, D8B8::kFormat, decode_hopper_128_d4b8x2_d8b8},
    {true, 128, D8B8::kFormat, D4B8::kFormat, decode_hopper_128_d8b8_d4b8},
    {true, 128, D8B8::kFormat, D4B8x2::kFormat, decode_hopper_128_d8b8_d4b8x2},
    {true, 128, D8B8::kFormat, D8B8::kFormat, decode_hopper_128_d8b8_d8b8},
    {true, 256, D4B8::kFormat, D4B8::kFormat, decode_hopper_256_d4b8_d4b8},
    {true, 256, D4B8x2::kFormat, D4B8x2::kFormat, decode_hopper_256_d4b8x2_d4b8x2},
    {true, 256, D8B8::kFormat, D8B8::kFormat, decode_hopper_256_d8b8_d8b8},
    {false, 64, D4B8::kFormat, D4B8::kFormat, decode_portable_64_d4b8_d4b8},
    {false, 64, D8B8::kFormat, D8B8::kFormat, decode_portable_64_d8b8_d8b8},
    {false, 128, D4B8::kFormat, D4B8::kFormat, decode_portable_128_d4b8_d4b8},
    {false, 128, D4B8::kFormat, D8B8::kFormat, decode_portable_128_d4b8_d8b8},
    {false, 128, D8B8::kFormat, D4B8::kFormat, decode_portable_128_d8b8_d4b8},
    {false, 128, D8B8::kFormat, D8B8::kFormat, decode_portable_128_d8b8_d8b8},
    {false, 256, D4B8::kFormat, D4B8::kFormat, decode_portable_256_d4b8_d4b8},
    {false, 256, D8B8::kFormat, D8B8::kFormat, decode_portable_256_d8b8_d8b8},
};

}  // namespace

DecodeKernel fast_decode_kernel(bool hopper, int head_dim, const CodeFormat& key,
                                const CodeFormat& value, int rows) {
  for (const Entry& entry : kEntries) {
    if (entry.hopper == hopper && entry.head_dim == head_dim && entry.key == key &&
        entry.value == value) {
      return entry.find(rows);
    }
  }
  return {};
}

}  // namespace vecinfer
