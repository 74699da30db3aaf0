// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The inner loop of quantize's search alone (the products that give scores, with the maxima over
// them), and the products of full matrices. Prints their rates on device 0; benchmark_quantize.py
// compiles and runs it.
//
// Products and maxima are timed together, as maxima over results of the tensor cores run beside the
// products only in part. Their rates apart (4-element sub-vectors) are printed to show it.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#include "../vecinfer_cuda/common/nearest.cuh"

using namespace vecinfer;

namespace {

constexpr int kThreads = 512, kTiles = 32, kGroups = 2, kSums = 8;
constexpr int kSharedBytes = 16384 + kThreads / 32 * 1024 + 16;  // operands; rows of each warp

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

// Random operands: small whole numbers.
__device__ void fill(__half* shared, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    shared[i] = __float2half(static_cast<float>((i * 2654435761u >> 16) % 255) - 127.0f);
  }
  __syncthreads();
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1) search(int* out, int rounds) {
  extern __shared__ __align__(128) __half shared[];
  fill(shared, kSharedBytes / 2);
  const SharedCentroidFragments<kDim, kTiles> fragments(shared);
  const __half* rows = shared + 8192 + threadIdx.x / 32 * 512;
  const uint32_t constants = RowFragment<kDim>::constants();
  int total = 0;
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
    int best[kGroups][4];
    find_best<kDim, kTiles, kGroups>(rows + (round & 1) * 8, fragments, constants, best);
#pragma unroll
    for (int i = 0; i < 4 * kGroups; ++i) total ^= best[i / 4][i % 4];
  }
  out[blockIdx.x * kThreads + threadIdx.x] = total;
}

// Products alone: kHalfDepth: with 8 inner dimensions, as scores of 4-element sub-vectors take,
// else with 16.
template <bool kHalfDepth>
__global__ void __launch_bounds__(kThreads, 1) products(int* out, int rounds) {
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = HalfPair<true>::pack(threadIdx.x + i, 1.0f);
  for (int i = 0; i < 2; ++i) b[i] = HalfPair<true>::pack(threadIdx.x % 7 + i, 1.0f);
  float sum[kSums][4] = {};
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      if (kHalfDepth) {
        HalfPair<true>::mma_short(sum[i], a[0], a[1], b[0]);
      } else {
        HalfPair<true>::mma(sum[i], a[0], a[1], a[2], a[3], b[0], b[1]);
      }
    }
  }
  float total = 0.0f;
  for (int i = 0; i < kSums; ++i) total += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
  out[blockIdx.x * kThreads + threadIdx.x] = __float_as_int(total);
}

// Maxima alone, two scores each.
__global__ void __launch_bounds__(kThreads, 1) maxima(int* out, int rounds) {
  int best[kSums] = {}, scores[kSums];
  for (int i = 0; i < kSums; ++i) scores[i] = threadIdx.x * 2654435761u >> i;
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
    scores[0] += round;
#pragma unroll
    for (int i = 0; i < kSums * kSums; ++i) {
      best[i % kSums] = maximum3(best[i % kSums], scores[i / kSums], scores[(i + 1) % kSums]);
    }
  }
  int total = 0;
  for (int i = 0; i < kSums; ++i) total ^= best[i];
  out[blockIdx.x * kThreads + threadIdx.x] = total;
}

// Per second: `work` of one warp and round.
template <typename Kernel>
double rate(Kernel kernel, double work, int blocks, int* out) {
  constexpr int kRounds = 20000;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  kernel<<<blocks, kThreads, kSharedBytes>>>(out, kRounds / 10);
  cudaEvent_t start, end;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  check(cudaEventRecord(start));
  kernel<<<blocks, kThreads, kSharedBytes>>>(out, kRounds);
  check(cudaEventRecord(end));
  check(cudaEventSynchronize(end));
  check(cudaGetLastError());
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, start, end));
  return work * kRounds * blocks * (kThreads / 32) / milliseconds * 1e3;
}

}  // namespace

int main() {
  int blocks = 0;
  check(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, 0));
  int* out = nullptr;
  check(cudaMalloc(&out, sizeof(int) * blocks * kThreads));
  constexpr double kScores = 32.0 * kGroups * 8 * kTiles;
  std::printf("2 %.6e\n", rate(search<2>, kScores, blocks, out));
  std::printf("4 %.6e\n", rate(search<4>, kScores, blocks, out));
  std::printf("8 %.6e\n", rate(search<8>, kScores, blocks, out));
  // Multiplications with additions.
  std::printf("matrix %.6e\n", rate(products<false>, kSums * 16.0 * 8 * 16, blocks, out));
  // Scores again.
  std::printf("products %.6e\n", rate(products<true>, kSums * 128.0, blocks, out));
  std::printf("maxima %.6e\n", rate(maxima, kSums * kSums * 64.0, blocks, out));
  return 0;
}
