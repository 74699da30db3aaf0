// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// What every operator checks before it launches, with messages that name the value and the rule;
// and how it finds its stream. The only header here that knows torch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>

#include "../common/params.h"

// A torch without CUDA does not have this symbol. Weak, so that the module can still be imported
// (and inspected) there.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

// Errors that a user can cause: no source location in front of the reason.
#define VECINFER_CHECK(condition, ...)                                                          \
  if (!(condition)) {                                                                           \
    throw std::runtime_error(torch::headeronly::detail::stdTorchCheckMsgImpl("", __VA_ARGS__)); \
  }

#define VECINFER_CUDA_CHECK(expression)                                                        \
  {                                                                                            \
    const cudaError_t error = (expression);                                                    \
    VECINFER_CHECK(error == cudaSuccess, "vecinfer: CUDA error: ", cudaGetErrorString(error)); \
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

inline bool is_bf16(const Tensor& tensor, const char* name) {
  const ScalarType type = tensor.scalar_type();
  VECINFER_CHECK(type == ScalarType::BFloat16 || type == ScalarType::Half, name, " is ",
                 dtype_name(type), ", but these kernels take bfloat16 or float16.");
  return type == ScalarType::BFloat16;
}

inline void check_same_device(const Tensor& tensor, const char* name, const Tensor& other) {
  VECINFER_CHECK(tensor.is_cuda() && tensor.get_device_index() == other.get_device_index(), name,
                 " must be on the same CUDA device as the other tensors.");
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

// A contiguous tensor on the device of `other`.
inline void check_plain(const Tensor& tensor, const char* name, ScalarType type,
                        const Tensor& other, std::initializer_list<int64_t> sizes) {
  check_dtype(tensor, name, type);
  check_same_device(tensor, name, other);
  check_shape(tensor, name, sizes);
  VECINFER_CHECK(tensor.is_contiguous(), name, " must be contiguous.");
}

// Keys, values, ring or sinks [B, Hkv, T, D], contiguous in D only.
inline StatesView states_view(const Tensor& tensor, const char* name, const Tensor& other,
                              int64_t batch, int64_t heads, int64_t tokens, int64_t head_dim) {
  check_same_device(tensor, name, other);
  check_shape(tensor, name, {batch, heads, tokens, head_dim});
  VECINFER_CHECK(tensor.dim() < 4 || tensor.numel() == 0 || tensor.stride(3) == 1, name,
                 " must be contiguous in its last dimension (its stride there is ",
                 tensor.stride(3), ").");
  StatesView view;
  view.data = tensor.data_ptr();
  view.batch_stride = tensor.stride(0);
  view.head_stride = tensor.stride(1);
  view.token_stride = tensor.stride(2);
  view.aligned = reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
                 (view.batch_stride | view.head_stride | view.token_stride) % 8 == 0;
  return view;
}

inline CodeFormat code_format(const Tensor& centroids, const char* name, int64_t heads,
                              int64_t head_dim, const Tensor& other) {
  check_plain(centroids, name, ScalarType::Char, other, {heads, -1, -1, -1});
  CodeFormat format;
  format.subvector_dim = static_cast<int>(centroids.size(3));
  format.num_codes = static_cast<int>(centroids.size(1));
  const int64_t size = centroids.size(2);
  format.bits_per_code = size == 256 ? 8 : size == 1024 ? 10 : size == 4096 ? 12 : 0;
  const int dim = format.subvector_dim;
  VECINFER_CHECK((dim == 2 || dim == 4 || dim == 8) && head_dim % dim == 0, name,
                 " has sub-vectors of ", dim, " elements, but 2, 4 or 8 (dividing the head size ",
                 head_dim, ") are supported.");
  VECINFER_CHECK(format.bits_per_code != 0, name, " has ", size,
                 " centroids per code, but 256, 1024 or 4096 are supported.");
  VECINFER_CHECK(format.num_codes == 1 || format.num_codes == 2, name, " has ", format.num_codes,
                 " additive codes, but 1 or 2 are supported.");
  return format;
}

inline void check_head_dim(int64_t head_dim) {
  VECINFER_CHECK(
      head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256,
      "head size ", head_dim, " is not supported; 64, 80, 96, 128 and 256 are.");
}

// Keys and values of different head sizes are part of the signature, not of these kernels yet.
inline void check_value_head_dim(int64_t value_head_dim, int64_t key_head_dim) {
  VECINFER_CHECK(value_head_dim == key_head_dim, "values have head size ", value_head_dim,
                 " and keys ", key_head_dim, ", but these kernels need equal ones.");
}

// Refuses a device that cannot run these kernels, before anything is launched on it.
inline void check_device(const Tensor& tensor) {
  VECINFER_CHECK(tensor.is_cuda(), "these kernels need CUDA tensors.");
  int major = 0;
  VECINFER_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, tensor.get_device_index()));
  VECINFER_CHECK(major >= 8,
                 "these kernels need compute capability 8.0 or higher; this device has ", major,
                 ".x.");
}

inline cudaStream_t current_stream(const Tensor& tensor) {
  VECINFER_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                 "this torch was built without CUDA.");
  void* stream = nullptr;
  VECINFER_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) == 0,
                 "torch could not name the current CUDA stream.");
  return static_cast<cudaStream_t>(stream);
}

}  // namespace vecinfer
