// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
#include "select.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace vecinfer {

namespace portable {
extern const Kernels kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace vnni {
void attend_codes(const DecodeParams& p, int64_t batch, int64_t head, int first, int last,
                  Part& part);
}
#endif

namespace {

constexpr int kPaths = 4;
const char* const kNames[kPaths] = {"portable", "avx2", "avx512", "vnni"};

int best_path() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  const bool vnni =
      avx512 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  return vnni ? 3 : avx512 ? 2 : avx2 ? 1 : 0;
#else
  return 0;
#endif
}

#if defined(__x86_64__)
// Attention over codes apart, avx512's kernels serve here too.
Kernels with_vnni() {
  Kernels kernels = avx512::kernels;
  kernels.name = "vnni";
  kernels.attend_codes = vnni::attend_codes;
  return kernels;
}
#endif

int wanted_path() {
  const char* wanted = std::getenv("VECINFER_CPU_PATH");
  if (wanted == nullptr || *wanted == 0) return kPaths - 1;
  for (int i = 0; i < kPaths; ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0) return i;
  }
  throw std::runtime_error("VECINFER_CPU_PATH is '" + std::string(wanted) +
                           "', but portable, avx2, avx512 or vnni is needed.");
}

}  // namespace

const Kernels& select_kernels() {
  static const int best = best_path();
#if defined(__x86_64__)
  static const Kernels vnni_kernels = with_vnni();
#endif
  const int wanted = wanted_path();
#if defined(__x86_64__)
  switch (wanted < best ? wanted : best) {
    case 3:
      return vnni_kernels;
    case 2:
      return avx512::kernels;
    case 1:
      return avx2::kernels;
    default:
      return portable::kernels;
  }
#else
  (void)best;
  (void)wanted;
  return portable::kernels;
#endif
}

}  // namespace vecinfer
