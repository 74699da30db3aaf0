// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Host side of decode_attention: checks, workspace, choice of kernel, launches.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "../../torch-ext/torch_binding.h"
#include "../common/static_switch.h"
#include "../decode/combine.cuh"
#include "../decode/heuristics.h"
#include "../decode/query_transform.cuh"
#include "../decode/traits.cuh"
#include "../decode/variants.h"
#include "sides.h"

namespace vecinfer {
namespace {

constexpr int kMaxQueryTokens = 16;
constexpr int kMaxGroup = 16;

struct Device {
  int major;
  int multiprocessors;
  int shared_bytes;  // per block
  int reserved_bytes;
};

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  VECINFER_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

Device describe(int device) {
  return {attribute(cudaDevAttrComputeCapabilityMajor, device),
          attribute(cudaDevAttrMultiProcessorCount, device),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          attribute(cudaDevAttrReservedSharedMemoryPerBlock, device)};
}

// The fastest variant for the device and formats. VECINFER_DECODE_PATH=portable or general asks for
// a slower one, so that every path can be tested on one machine.
DecodeKernel choose_kernel(const DecodeParams& p, const Device& device, bool aligned) {
  const char* path = std::getenv("VECINFER_DECODE_PATH");
  const bool portable = path != nullptr && std::strcmp(path, "portable") == 0;
  const bool general = path != nullptr && std::strcmp(path, "general") == 0;
  // Tables are addressed from the end of CUDA's own shared memory; exact tokens are read in 16-byte
  // words.
  if (!general && aligned && device.reserved_bytes == kSharedBase) {
    DecodeKernel kernel;
    if (device.major == 9 && !portable) {
      kernel = fast_decode_kernel(true, p.head_dim, p.key.format, p.value.format, p.rows);
    }
    if (kernel.function == nullptr) {
      kernel = fast_decode_kernel(false, p.head_dim, p.key.format, p.value.format, p.rows);
    }
    if (kernel.function != nullptr && kernel.shared_bytes <= device.shared_bytes) return kernel;
  }
  return general_decode_kernel();
}

void launch(const void* function, dim3 grid, dim3 block, int shared_bytes, bool dependent,
            void** arguments, cudaStream_t stream) {
  VECINFER_CUDA_CHECK(
      cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  // One split of L1 and shared memory for all kernels: a multiprocessor must be idle to change it.
  VECINFER_CUDA_CHECK(cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                           cudaSharedmemCarveoutMaxShared));
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[1];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attributes;
  config.numAttrs = dependent ? 1 : 0;
  VECINFER_CUDA_CHECK(cudaLaunchKernelExC(&config, function, arguments));
}

// Parts of the workspace, each on 256 bytes.
class Workspace {
 public:
  int64_t reserve(int64_t bytes) {
    const int64_t offset = size_;
    size_ += (bytes + 255) / 256 * 256;
    return offset;
  }
  int64_t size() const { return size_; }

 private:
  int64_t size_ = 0;
};

// Transforms the queries in front of the main kernel by a full matrix.
template <int kLaneDims>
void launch_query_matrix(DecodeParams& p, const Device& device, cudaStream_t stream) {
  const int tiles = p.padded_rows() / kRowTile * p.batch;  // of a head
  if (matrix_tiles(tiles * p.kv_heads, device.multiprocessors) == 1) {
    void* arguments[] = {&p};
    launch(reinterpret_cast<const void*>(&query_matrix_kernel<kLaneDims>), dim3(tiles, p.kv_heads),
           32 * kMatrixWarps, query_matrix_floats<kLaneDims>() * 4, false, arguments, stream);
    return;
  }
  constexpr int kChunkTiles = RowProduct<kLaneDims, kMatrixWarps>::kRows / kRowTile;
  int chunks = (tiles + kChunkTiles - 1) / kChunkTiles;
  void* arguments[] = {&p, &chunks};
  launch(reinterpret_cast<const void*>(&query_rows_kernel<kLaneDims>),
         dim3(query_blocks(chunks, p.kv_heads, device.multiprocessors), p.kv_heads),
         32 * kMatrixWarps, 0, false, arguments, stream);
}

// The same for a diagonal transform.
void launch_query_diagonal(DecodeParams& p, const Device& device, cudaStream_t stream) {
  const int rows = query_block_rows(p.head_dim);
  int chunks = (p.batch * p.kv_heads * p.padded_rows() + rows - 1) / rows;
  void* arguments[] = {&p, &chunks};
  launch(reinterpret_cast<const void*>(&query_diagonal_kernel),
         std::min(4 * device.multiprocessors, chunks), kQueryThreads, 0, false, arguments, stream);
}

// Merges the main kernel's records.
template <int kLaneDims, bool kFull>
void launch_combine(DecodeParams& p, const Device& device, cudaStream_t stream) {
  const int row_tiles = (p.rows + kRowTile - 1) / kRowTile;
  const int tiles = row_tiles * p.batch;  // of a head
  void* arguments[] = {&p};
  if constexpr (kFull) {
    const int block_tiles = matrix_tiles(tiles * p.kv_heads, device.multiprocessors);
    if (block_tiles > 1) {
      launch(reinterpret_cast<const void*>(&combine_many_kernel<kLaneDims>),
             dim3((tiles + block_tiles - 1) / block_tiles, p.kv_heads),
             dim3(32, kRowTile * block_tiles, matrix_slices(block_tiles)),
             combine_floats<kLaneDims, Product::kSeveralTiles>(kMatrixWarps) * 4, device.major >= 9,
             arguments, stream);
      return;
    }
  }
  constexpr Product kProduct = kFull ? Product::kOneTile : Product::kNone;
  const int slices =
      kFull ? matrix_slices(1)
            : combine_slices(p.splits, p.batch, tiles * p.kv_heads, device.multiprocessors);
  launch(reinterpret_cast<const void*>(&combine_kernel<kLaneDims, kFull>),
         dim3(row_tiles, p.kv_heads, p.batch), dim3(32, kRowTile, slices),
         combine_floats<kLaneDims, kProduct>(kRowTile * slices) * 4, device.major >= 9, arguments,
         stream);
}

void check_codebook_scores(double softmax_scale, double softcap) {
  VECINFER_CHECK(softmax_scale > 0, "softmax_scale is ", softmax_scale,
                 ", but it must be positive.");
  VECINFER_CHECK(softcap >= 0, "softcap is ", softcap, ", but it must be positive, or 0 for none.");
}

}  // namespace

std::tuple<Tensor, Tensor> decode_attention(
    Tensor query, Tensor codes, OptionalTensor block_table, Tensor sink_keys, Tensor sink_values,
    Tensor ring_keys, Tensor ring_values, Tensor lengths, Tensor quantized_lengths,
    OptionalTensor key_mean, Tensor query_transform, Tensor key_centroids,
    Tensor key_centroid_scale, OptionalTensor value_mean, OptionalTensor output_transform,
    Tensor value_centroids, Tensor value_centroid_scale, double softmax_scale, double softcap,
    OptionalTensor sink_logits, int64_t num_splits) {
  check_device(query);
  check_shape(query, "query", {-1, -1, -1, -1});
  check_shape(codes, "codes", {-1, -1, -1, -1});
  const int64_t batch = query.size(0), query_heads = query.size(1), query_tokens = query.size(2);
  const int64_t head_dim = query.size(3), heads = codes.size(1);
  check_head_dim(head_dim);
  check_shape(ring_keys, "ring_keys", {batch, heads, -1, head_dim});
  check_shape(ring_values, "ring_values", {batch, heads, -1, -1});
  check_shape(sink_keys, "sink_keys", {batch, heads, -1, head_dim});
  check_value_head_dim(ring_values.size(3), head_dim);
  const int64_t sinks = sink_keys.size(2), slots = ring_keys.size(2);
  VECINFER_CHECK(heads > 0 && query_heads % heads == 0 && query_heads / heads <= kMaxGroup,
                 "query has ", query_heads, " heads for ", heads,
                 " key/value heads, but a multiple of up to ", kMaxGroup, " is supported.");
  // All queries see all codes, so only the last token may be one.
  VECINFER_CHECK(query_tokens >= 1 && query_tokens <= kMaxQueryTokens &&
                     query_tokens <= std::max<int64_t>(slots, 1),
                 "query has ", query_tokens, " tokens per row, but 1 to ", kMaxQueryTokens,
                 " are supported, and no more than the ring's ", slots, " slots.");
  check_codebook_scores(softmax_scale, softcap);
  VECINFER_CHECK(num_splits >= 0 && num_splits <= kMaxSplits, "num_splits is ", num_splits,
                 ", but it must be 0 (chosen here) to ", kMaxSplits, ".");
  VECINFER_CHECK(batch <= 65535 && heads <= 65535, "at most 65535 rows and heads are supported.");

  DecodeParams p = {};
  p.bf16 = is_bf16(query, "query");
  p.query = states_view(query, "query", query, batch, query_heads, query_tokens, head_dim);
  const struct {
    const Tensor& tensor;
    const char* name;
    int64_t tokens;
    StatesView& view;
  } exact[] = {{sink_keys, "sink_keys", sinks, p.sink_keys},
               {sink_values, "sink_values", sinks, p.sink_values},
               {ring_keys, "ring_keys", slots, p.ring_keys},
               {ring_values, "ring_values", slots, p.ring_values}};
  bool aligned = p.query.aligned;
  for (const auto& part : exact) {
    check_dtype(part.tensor, part.name, query.scalar_type());
    part.view = states_view(part.tensor, part.name, query, batch, heads, part.tokens, head_dim);
    aligned = aligned && (part.view.aligned || part.tensor.numel() == 0);
  }
  p.lengths = row_numbers(lengths, "lengths", batch, query);
  p.quantized_lengths = row_numbers(quantized_lengths, "quantized_lengths", batch, query);
  Side sides[2] = {make_side(key_centroids, key_centroid_scale, false,
                             make_transform(query_transform, "query_transform", key_mean,
                                            "key_mean", false, heads, head_dim, query),
                             heads, head_dim, query),
                   make_side(value_centroids, value_centroid_scale, true,
                             make_transform(output_transform, "output_transform", value_mean,
                                            "value_mean", false, heads, head_dim, query),
                             heads, head_dim, query)};
  p.codes = codes_view(codes, block_table, sides, batch, heads, head_dim, query);
  p.key = sides[0];
  p.value = sides[1];
  if (sink_logits) {
    check_plain(*sink_logits, "sink_logits", ScalarType::Float, query, {query_heads});
    p.sink_logits = static_cast<const float*>(sink_logits->data_ptr());
  }
  p.softmax_scale = static_cast<float>(softmax_scale);
  p.softcap = static_cast<float>(softcap) * kLog2E;
  p.softcap_slope = softcap > 0 ? static_cast<float>(2 / softcap) : 0.f;
  p.batch = static_cast<int>(batch);
  p.kv_heads = static_cast<int>(heads);
  p.group = static_cast<int>(query_heads / heads);
  p.query_tokens = static_cast<int>(query_tokens);
  p.by_query_tokens = FastDivider(p.query_tokens);
  p.head_dim = static_cast<int>(head_dim);
  p.rows = p.group * p.query_tokens;
  p.sink_length = static_cast<int>(sinks);
  p.ring_slots = static_cast<int>(std::max<int64_t>(slots, 1));

  Tensor out = torch::stable::new_empty(query, {batch, query_heads, query_tokens, head_dim});
  Tensor lse =
      torch::stable::new_empty(query, {batch, query_heads, query_tokens}, ScalarType::Float);
  if (batch == 0) return {out, lse};
  p.out = out.data_ptr();
  p.lse = static_cast<float*>(lse.data_ptr());

  torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Device device = describe(query.get_device_index());
  const DecodeKernel kernel = choose_kernel(p, device, aligned);
  const bool general = kernel.function == general_decode_kernel().function;
  p.warps = kernel.warps;
  p.rows_per_group = kernel.rows_per_group;
  p.row_groups = (p.rows + p.rows_per_group - 1) / p.rows_per_group;
  p.splits = num_splits > 0
                 ? static_cast<int>(num_splits)
                 : num_splits_heuristic(device.multiprocessors, p.kv_heads, p.row_groups);
  p.start_weight = kStartWeight;
  p.exact_weight = exact_weight(kernel.exact_slots, p.head_dim, p.codes.bytes_per_tile);
  p.query_limit = query_limit(p.head_dim, p.key.format.num_codes);

  // The int8 kernel applies diagonal transforms to its queries itself.
  const bool transforms_first = general || p.key.transform.kind == TransformKind::kFull;
  const int64_t padded_rows = batch * heads * p.padded_rows();
  const int64_t pairs = heads * p.row_groups, record_bytes = p.record_floats() * 4;
  Workspace workspace;
  const int64_t at_float = workspace.reserve(transforms_first ? padded_rows * head_dim * 4 : 0);
  const int64_t at_offset = workspace.reserve(transforms_first ? padded_rows * 4 : 0);
  const int64_t at_records = workspace.reserve(pairs * p.slots() * record_bytes);
  const int64_t at_aside = workspace.reserve(pairs * p.splits * p.warps * record_bytes);
  Tensor memory = torch::stable::new_empty(query, {workspace.size()}, ScalarType::Byte);
  char* base = static_cast<char*>(memory.data_ptr());
  if (transforms_first) {
    p.query_float = reinterpret_cast<float*>(base + at_float);
    p.row_offset = reinterpret_cast<float*>(base + at_offset);
  }
  p.records = reinterpret_cast<float*>(base + at_records);
  p.aside = reinterpret_cast<float*>(base + at_aside);

  const cudaStream_t stream = current_stream(query);
  LANE_DIMS_SWITCH(p.head_dim, kLaneDims, [&] {
    if (p.key.transform.kind == TransformKind::kFull) {
      launch_query_matrix<kLaneDims>(p, device, stream);
    } else if (transforms_first) {
      launch_query_diagonal(p, device, stream);
    }
    void* arguments[] = {&p};
    launch(kernel.function, dim3(p.splits, p.row_groups, heads), kernel.warps * 32,
           kernel.shared_bytes, device.major >= 9 && transforms_first, arguments, stream);
    if (p.value.transform.kind == TransformKind::kFull) {
      launch_combine<kLaneDims, true>(p, device, stream);
    } else {
      launch_combine<kLaneDims, false>(p, device, stream);
    }
  });
  return {out, lse};
}

}  // namespace vecinfer
