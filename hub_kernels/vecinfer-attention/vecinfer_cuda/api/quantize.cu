// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Host side of quantize: checks, parameters, launch.
#include <algorithm>

#include "../../torch-ext/torch_binding.h"
#include "../common/static_switch.h"
#include "../quantize/kernel.cuh"
#include "../quantize/stream_kernel.cuh"
#include "sides.h"

namespace vecinfer {
namespace {

int attribute(cudaDeviceAttr name, const Tensor& tensor) {
  int value = 0;
  VECINFER_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, tensor.get_device_index()));
  return value;
}

// Time of a block with so many tiles, in rounds of all of its warps. A warp that is alone waits for
// its own latencies: a round of few takes more than their share.
double block_time(int64_t tiles, int warps) {
  constexpr double kSetup = 0.15, kLeastRound = 0.4;
  const double part = static_cast<double>(tiles % warps) / warps;
  const double last = part > 0.0 ? kLeastRound + (1.0 - kLeastRound) * part : 0.0;
  return kSetup + static_cast<double>(tiles / warps) + last;
}

// Blocks that share a row's tiles, one at a time on a multiprocessor: as many as end first.
int64_t blocks_per_row(int64_t tiles, int64_t rows, int warps, int multiprocessors) {
  constexpr int64_t kMostWaves = 8;
  int64_t best = 1;
  double least = 0.0;
  for (int64_t blocks = 1; blocks <= tiles; ++blocks) {
    const int64_t waves = (blocks * rows + multiprocessors - 1) / multiprocessors;
    if (blocks > 1 && waves > kMostWaves) break;
    const double time =
        static_cast<double>(waves) * block_time((tiles + blocks - 1) / blocks, warps);
    if (blocks == 1 || time < least) best = blocks, least = time;
  }
  return best;
}

using QuantizeKernel = void (*)(QuantizeParams);

template <int kDim, int kHeadDim, bool kMatrix>
QuantizeKernel stream_kernel(int levels) {
  if constexpr (kDim == 4) {
    if (levels == 2) return quantize_stream_kernel<kDim, kHeadDim, 2, kMatrix>;
  }
  return quantize_stream_kernel<kDim, kHeadDim, 1, kMatrix>;
}

// Which kernel a side takes. Sides of the same one share a launch.
struct SideKernel {
  int subvector_dim;
  int levels;   // of quantize_stream_kernel, or 0: quantize_kernel
  bool matrix;  // of quantize_stream_kernel

  SideKernel(const Side& side, int head_dim, bool bf16, int room)
      : subvector_dim(side.format.subvector_dim), levels(0), matrix(false) {
    const bool full = side.transform.kind == TransformKind::kFull;
    const bool known = full ? bf16 && (head_dim == 64 || head_dim == 128)
                            : head_dim == 64 || head_dim == 128 || head_dim == 256;
    const StreamLayout layout(side, head_dim);
    const int bytes = layout.block_bytes() + kQuantizeWarps / 2 * layout.warp_bytes();
    const bool known_codes =
        side.format.bits_per_code == 8 && (side.format.num_codes == 1 || subvector_dim == 4);
    if (!known || !known_codes || bytes > room) return;
    levels = side.format.num_codes;
    matrix = full;
  }
  bool operator==(const SideKernel&) const = default;

  // any_full: whether a side of the launch has a full matrix.
  QuantizeKernel kernel(int head_dim, bool any_full) const {
    return SUBVECTOR_DIM_SWITCH(subvector_dim, kDim, [&]() -> QuantizeKernel {
      if (levels == 0) return any_full ? quantize_kernel<kDim, true> : quantize_kernel<kDim, false>;
      if (matrix) {
        return head_dim == 64 ? stream_kernel<kDim, 64, true>(levels)
                              : stream_kernel<kDim, 128, true>(levels);
      }
      return head_dim == 64    ? stream_kernel<kDim, 64, false>(levels)
             : head_dim == 128 ? stream_kernel<kDim, 128, false>(levels)
                               : stream_kernel<kDim, 256, false>(levels);
    });
  }
};

// Of sides first_side to first_side + num_sides - 1, which take the same kernel.
void launch(QuantizeParams params, int num_sides, int64_t batch, const Tensor& device,
            cudaStream_t stream) {
  const Side& side = params.sides[params.first_side];
  const Side& last = params.sides[params.first_side + num_sides - 1];
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  const int room = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const SideKernel kind(side, params.head_dim, params.bf16, room);
  const auto shared = [&](int warps, int columns) {
    if (kind.levels > 0) {
      const StreamLayout a(side, params.head_dim), b(last, params.head_dim);
      return std::max(a.block_bytes() + warps * a.warp_bytes(),
                      b.block_bytes() + warps * b.warp_bytes());
    }
    const QuantizeLayout a(side, params.head_dim, columns), b(last, params.head_dim, columns);
    return std::max(a.block_bytes() + warps * a.warp_bytes(),
                    b.block_bytes() + warps * b.warp_bytes());
  };
  // A row's tokens may start inside a tile and end in one more: some block then has that one too.
  const int64_t tiles = (params.num_tokens + kTile - 1) / kTile;
  const int64_t rows = batch * params.num_heads * num_sides;
  // Fewer warps only where there is no room: those without a tile help to set up the block. A full
  // matrix stays whole if there is room for half of the warps beside it.
  int warps = kQuantizeWarps, columns = params.head_dim;
  if (shared(warps / 2, columns) > room) columns = FullTransform::kColumns;
  while (warps > 1 && shared(warps, columns) > room) --warps;
  params.full_columns = columns;
  const int bytes = shared(warps, columns);
  const dim3 grid(static_cast<unsigned>(blocks_per_row(tiles, rows, warps, multiprocessors)),
                  params.num_heads * num_sides, static_cast<unsigned>(batch));
  const bool full =
      side.transform.kind == TransformKind::kFull || last.transform.kind == TransformKind::kFull;
  const QuantizeKernel kernel = kind.kernel(params.head_dim, full);
  VECINFER_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  VECINFER_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                           cudaSharedmemCarveoutMaxShared));
  kernel<<<grid, 32 * warps, bytes, stream>>>(params);
  VECINFER_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void quantize(Tensor key_states, Tensor value_states, Tensor codes, OptionalTensor block_table,
              Tensor starts, Tensor counts, Tensor first, OptionalTensor key_mean,
              Tensor key_transform, Tensor key_centroids, Tensor key_centroid_scale,
              OptionalTensor value_mean, OptionalTensor value_transform, Tensor value_centroids,
              Tensor value_centroid_scale) {
  check_device(key_states);
  check_shape(key_states, "key_states", {-1, -1, -1, -1});
  const int64_t batch = key_states.size(0), heads = key_states.size(1), tokens = key_states.size(2);
  const int64_t head_dim = key_states.size(3);
  check_head_dim(head_dim);
  check_shape(value_states, "value_states", {batch, heads, tokens, -1});
  check_value_head_dim(value_states.size(3), head_dim);
  QuantizeParams params;
  params.bf16 = is_bf16(key_states, "key_states");
  check_dtype(value_states, "value_states", key_states.scalar_type());
  params.states[0] =
      states_view(key_states, "key_states", key_states, batch, heads, tokens, head_dim);
  params.states[1] =
      states_view(value_states, "value_states", key_states, batch, heads, tokens, head_dim);
  params.sides[0] = make_side(key_centroids, key_centroid_scale, false,
                              make_transform(key_transform, "key_transform", key_mean, "key_mean",
                                             false, heads, head_dim, key_states),
                              heads, head_dim, key_states);
  params.sides[1] = make_side(value_centroids, value_centroid_scale, true,
                              make_transform(value_transform, "value_transform", value_mean,
                                             "value_mean", false, heads, head_dim, key_states),
                              heads, head_dim, key_states);
  params.codes = codes_view(codes, block_table, params.sides, batch, heads, head_dim, key_states);
  for (int i = 0; i < 2; ++i) {
    params.orders[i] = plane_order(params.sides[i], head_dim);
    params.by_subvectors[i] =
        FastDivider(static_cast<int>(head_dim) / params.sides[i].format.subvector_dim);
  }
  params.starts = row_numbers(starts, "starts", batch, key_states);
  params.counts = row_numbers(counts, "counts", batch, key_states);
  params.first = row_numbers(first, "first", batch, key_states);
  params.num_heads = static_cast<int>(heads);
  params.num_tokens = static_cast<int>(tokens);
  params.head_dim = static_cast<int>(head_dim);
  if (batch * heads * tokens == 0) return;
  VECINFER_CHECK(batch <= 65535 && heads <= 32767,
                 "quantize takes at most 65535 rows and 32767 heads.");

  torch::stable::accelerator::DeviceGuard guard(key_states.get_device_index());
  const cudaStream_t stream = current_stream(key_states);
  params.first_side = 0;
  const int room = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, key_states);
  const auto kernel_of = [&](int side) {
    return SideKernel(params.sides[side], params.head_dim, params.bf16, room);
  };
  if (kernel_of(0) == kernel_of(1)) {
    launch(params, 2, batch, key_states, stream);
    return;
  }
  launch(params, 1, batch, key_states, stream);
  params.first_side = 1;
  launch(params, 1, batch, key_states, stream);
}

}  // namespace vecinfer
