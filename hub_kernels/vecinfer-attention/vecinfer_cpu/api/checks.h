// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What every operator checks before it computes, with messages that name the value and the rule;
// and the views it makes of tensors. The only header here that knows torch.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "../common/decode_params.h"

// Errors that a user can cause: no source location in front of the reason.
#define VECINFER_CHECK(condition, ...)                                                          \
  if (!(condition)) {                                                                           \
    throw std::runtime_error(torch::headeronly::detail::stdTorchCheckMsgImpl("", __VA_ARGS__)); \
  }

namespace vecinfer {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    default:
      return "another dtype";
  }
}

inline void check_dtype(const Tensor& tensor, const char* name, ScalarType expected) {
  VECINFER_CHECK(tensor.scalar_type() == expected, name, " is ", dtype_name(tensor.scalar_type()),
                 ", but it must be ", dtype_name(expected), ".");
}

inline Dtype states_dtype(const Tensor& tensor, const char* name) {
  const ScalarType type = tensor.scalar_type();
  VECINFER_CHECK(
      type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half, name,
      " is ", dtype_name(type), ", but these kernels take float32, bfloat16 or float16.");
  return type == ScalarType::Float  ? Dtype::kFloat
         : type == ScalarType::Half ? Dtype::kHalf
                                    : Dtype::kBfloat16;
}

inline void check_cpu(const Tensor& tensor, const char* name) {
  VECINFER_CHECK(tensor.is_cpu(), name, " must be on the CPU, as the other tensors are.");
}

// `sizes` of -1 are free.
inline void check_shape(const Tensor& tensor, const char* name,
                        std::initializer_list<int64_t> sizes) {
  bool same = tensor.dim() == static_cast<int64_t>(sizes.size());
  int64_t axis = 0;
  for (int64_t size : sizes) {
    same = same && (size < 0 || tensor.size(axis) == size);
    ++axis;
  }
  if (same) return;
  std::ostringstream message;
  message << name << " has shape [";
  for (int64_t i = 0; i < tensor.dim(); ++i) message << (i ? ", " : "") << tensor.size(i);
  message << "], but [";
  axis = 0;
  for (int64_t size : sizes) {
    message << (axis++ ? ", " : "");
    if (size < 0) {
      message << "*";
    } else {
      message << size;
    }
  }
  message << "] is needed.";
  throw std::runtime_error(message.str());
}

inline void check_plain(const Tensor& tensor, const char* name, ScalarType type,
                        std::initializer_list<int64_t> sizes) {
  check_dtype(tensor, name, type);
  check_cpu(tensor, name);
  check_shape(tensor, name, sizes);
  VECINFER_CHECK(tensor.is_contiguous(), name, " must be contiguous.");
}

inline void check_head_dim(int64_t head_dim, const char* name) {
  VECINFER_CHECK(head_dim >= 8 && head_dim <= kMaxHeadDim && head_dim % 8 == 0, name,
                 " has head size ", head_dim, ", but a multiple of 8 up to ", kMaxHeadDim,
                 " is needed.");
}

// Keys, values, ring or sinks [B, Hkv, T, D], contiguous in D only.
inline StatesView states_view(const Tensor& tensor, const char* name, ScalarType type,
                              int64_t batch, int64_t heads, int64_t tokens, int64_t head_dim) {
  check_cpu(tensor, name);
  check_shape(tensor, name, {batch, heads, tokens, head_dim});
  check_dtype(tensor, name, type);
  VECINFER_CHECK(tensor.numel() == 0 || tensor.stride(3) == 1, name,
                 " must be contiguous in its last dimension (its stride there is ",
                 tensor.stride(3), ").");
  StatesView view;
  view.data = tensor.data_ptr();
  view.batch_stride = tensor.stride(0);
  view.head_stride = tensor.stride(1);
  view.token_stride = tensor.stride(2);
  view.dtype = states_dtype(tensor, name);
  return view;
}

inline int* row_numbers(const Tensor& tensor, const char* name, int64_t batch) {
  check_plain(tensor, name, ScalarType::Int, {batch});
  return static_cast<int*>(tensor.data_ptr());
}

inline Transform make_transform(const OptionalTensor& weight, const char* weight_name,
                                const OptionalTensor& mean, const char* mean_name, int64_t heads,
                                int64_t head_dim) {
  Transform transform;
  if (mean) {
    check_plain(*mean, mean_name, ScalarType::Float, {heads, head_dim});
    transform.mean = static_cast<const float*>(mean->data_ptr());
  }
  if (!weight) return transform;
  const bool full = weight->dim() == 3;
  if (full) {
    check_plain(*weight, weight_name, ScalarType::Float, {heads, head_dim, head_dim});
  } else {
    check_plain(*weight, weight_name, ScalarType::Float, {heads, head_dim});
  }
  transform.kind = full ? TransformKind::kFull : TransformKind::kDiagonal;
  transform.weight = static_cast<const float*>(weight->data_ptr());
  return transform;
}

inline Side make_side(const Tensor& centroids, const Tensor& scale, bool is_value,
                      const Transform& transform, int64_t heads, int64_t head_dim) {
  const char* name = is_value ? "value_centroids" : "key_centroids";
  check_plain(centroids, name, ScalarType::Char, {heads, -1, -1, -1});
  const int64_t dim = centroids.size(3), size = centroids.size(2), codes = centroids.size(1);
  VECINFER_CHECK((dim == 2 || dim == 4 || dim == 8) && head_dim % dim == 0, name,
                 " has sub-vectors of ", dim, " elements, but 2, 4 or 8 (dividing the head size ",
                 head_dim, ") are supported.");
  VECINFER_CHECK(size == 256 || size == 1024 || size == 4096, name, " has ", size,
                 " centroids per code, but 256, 1024 or 4096 are supported.");
  VECINFER_CHECK(codes == 1 || codes == 2, name, " has ", codes,
                 " additive codes, but 1 or 2 are supported.");
  check_plain(scale, is_value ? "value_centroid_scale" : "key_centroid_scale", ScalarType::Float,
              {heads});
  Side side;
  side.format = {static_cast<int>(dim),
                 size == 256    ? 8
                 : size == 1024 ? 10
                                : 12,
                 static_cast<int>(codes)};
  side.transform = transform;
  side.centroids = static_cast<const int8_t*>(centroids.data_ptr());
  side.centroid_scale = static_cast<const float*>(scale.data_ptr());
  side.head_dim = static_cast<int>(head_dim);
  side.is_value = is_value;
  side.tile_offset = 0;
  return side;
}

// Also settles where the values start within a tile. The batch of paged codes is the table's.
inline CodesView codes_view(const Tensor& codes, const OptionalTensor& block_table, const Side& key,
                            Side& value, int64_t batch, int64_t heads) {
  const int key_bytes = side_bytes(key.format, key.head_dim, false);
  const int bytes = key_bytes + side_bytes(value.format, value.head_dim, true);
  check_dtype(codes, "codes", ScalarType::Byte);
  check_cpu(codes, "codes");
  check_shape(codes, "codes", {block_table ? -1 : batch, heads, -1, bytes});
  VECINFER_CHECK(codes.numel() == 0 || (codes.stride(3) == 1 && codes.stride(2) == bytes),
                 "codes must be contiguous in their last two dimensions.");
  value.tile_offset = key_bytes;
  CodesView view = {};
  view.data = static_cast<uint8_t*>(codes.data_ptr());
  view.first_stride = codes.stride(0);
  view.head_stride = codes.stride(1);
  view.tile_bytes = bytes;
  view.num_tiles = codes.size(2);
  if (block_table) {
    check_plain(*block_table, "block_table", ScalarType::Int, {batch, -1});
    view.block_table = static_cast<const int*>(block_table->data_ptr());
    view.max_pages = block_table->size(1);
    view.num_pages = codes.size(0);
    view.tiles_per_page = codes.size(2);
    view.num_tiles = view.num_pages == 0 ? 0 : view.max_pages * view.tiles_per_page;
  }
  return view;
}

// Calls f(i) for i in 0 .. count - 1 on torch's threads, or here where there is too little work:
// waking threads takes some 10 us. `nanoseconds` estimates all the work.
template <class F>
void parallel(int64_t count, double nanoseconds, const F& f) {
  if (count > 1 && nanoseconds > 40000.0) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i);
    });
  } else {
    for (int64_t i = 0; i < count; ++i) f(i);
  }
}

}  // namespace vecinfer
