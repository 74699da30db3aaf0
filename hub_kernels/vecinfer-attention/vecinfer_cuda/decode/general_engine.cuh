// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// The engine for every other format, head size and device: fp32, centroids gathered through the
// caches. Correct before fast; formats that models are served with have the other engine.
#pragma once

#include "../common/packing.cuh"
#include "../common/transform.cuh"
#include "exact.cuh"
#include "kernel.cuh"

namespace vecinfer {

class GeneralEngine {
 public:
  static constexpr int kWarps = 8;
  static constexpr int kRows = kRowTile;
  static constexpr int kHeadDim = 0;  // any
  static constexpr int kMaxHeadDim = 256;
  static constexpr bool kAsideShared = false;
  static constexpr int kRecordOffset = 0;
  static constexpr int kMetaOffset = kWarps * kRows * (kMaxHeadDim + 2) * 4;
  using Pieces = BlockPieces<kWarps, 1>;
  static constexpr int kSharedBytes = kMetaOffset + sizeof(Pieces);

  __device__ __forceinline__ GeneralEngine(const DecodeParams& p, int head, int row_group, char*)
      : p_(p), head_(head), row_group_(row_group) {}

  __device__ void prefetch(int, int, int, bool, bool) {}
  __device__ void first_queries(int, int*) {
    wait_for_previous_kernel();
    __syncthreads();
  }
  template <typename FirstTiles>
  __device__ void prepare(FirstTiles first_tiles) {
    first_tiles();
  }

  __device__ __forceinline__ void codes(int b, const RowWork& work, int first, int last, bool,
                                        float* record) {
    start();
    const int64_t row = padded_row(b);
    const float* query = p_.query_float + row * p_.head_dim;
    const float key_scale = p_.key.centroid_scale[head_] * p_.softmax_scale * kLog2E;
    const float value_scale = p_.value.centroid_scale[head_];
    float mean_score[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) mean_score[r] = p_.row_offset[row + r];
    const SideReader key(p_.key, p_.head_dim, head_), value(p_.value, p_.head_dim, head_);
    const int lane = threadIdx.x & 31, dim_step = p_.key.format.subvector_dim;
    const bool paged = p_.codes.block_table != nullptr;
    const uint8_t* tiles = paged ? nullptr : code_tile(p_.codes, b, head_, 0);
    for (int tile = first; tile < last; ++tile) {
      const uint8_t* bytes = paged ? code_tile(p_.codes, b, head_, tile)
                                   : tiles + static_cast<int64_t>(tile) * p_.codes.bytes_per_tile;
      float score[kRows] = {};
      for (int subvector = 0; subvector < p_.head_dim / dim_step; ++subvector) {
        for (int level = 0; level < p_.key.format.num_codes; ++level) {
          const int8_t* centroid = key.centroid(bytes, level, lane, subvector);
          for (int i = 0; i < dim_step; ++i) {
            const float c = centroid[i];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              score[r] = fmaf(query[r * p_.head_dim + subvector * dim_step + i], c, score[r]);
            }
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) score[r] = fmaf(score[r], key_scale, mean_score[r]);
      const int valid = work.coded - tile * kTile;
      absorb(
          score, [&](int) { return lane < valid; }, min(valid, kTile),
          [&](int token, int dim) {
            const int step = p_.value.format.subvector_dim;
            int sum = 0;
            for (int level = 0; level < p_.value.format.num_codes; ++level) {
              sum += value.centroid(bytes, level, token, dim / step)[dim % step];
            }
            return sum * value_scale;
          });
    }
    store(record);
  }

  __device__ __forceinline__ void exact(int b, const RowWork& work, int first, int last,
                                        float* record) {
    start();
    const uint16_t* query[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) query[r] = p_.query_row(b, head_, row_group_ * kRows + r);
    const ExactTokens keys(p_, p_.sink_keys, p_.ring_keys, work, b, head_);
    const ExactTokens values(p_, p_.sink_values, p_.ring_values, work, b, head_);
    const int lane = threadIdx.x & 31;
    for (int unit = first; unit < last; ++unit) {
      const int base = unit * kExactUnit;
      const int e = base + (lane & (kExactUnit - 1));
      const uint16_t* key = keys.row(e);
      float score[kRows] = {};
      for (int i = 0; i < p_.head_dim; ++i) {
        const float k = state_to_float(key[i], p_.bf16);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          score[r] = fmaf(state_to_float(query[r][i], p_.bf16), k, score[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) score[r] *= p_.softmax_scale * kLog2E;
      const int index = e < work.sinks ? e : e + work.coded;
      absorb(
          score,
          [&](int r) {
            const int token = (row_group_ * kRows + r) % p_.query_tokens;
            return lane < kExactUnit && e < work.exact &&
                   index <= work.length - p_.query_tokens + token;
          },
          min(work.exact - base, kExactUnit),
          [&](int token, int dim) {
            return state_to_float(values.row(base + token)[dim], p_.bf16);
          });
    }
    store(record);
  }

 private:
  static constexpr int kLaneDims = kMaxHeadDim / 32;

  // Looks up centroids of one side of a tile.
  struct SideReader {
    const Side& side;
    const int8_t* table;
    PlaneOrder order;
    int low_bytes;  // of a plane
    int plane;

    __device__ SideReader(const Side& s, int head_dim, int head)
        : side(s),
          table(s.centroids +
                (static_cast<int64_t>(head) * s.format.num_codes << s.format.bits_per_code) *
                    s.format.subvector_dim),
          order(padded_subvectors(s.format, head_dim, s.is_value), s.is_value),
          low_bytes(kTile * padded_subvectors(s.format, head_dim, s.is_value)),
          plane(plane_bytes(s.format, head_dim, s.is_value)) {}

    __device__ const int8_t* centroid(const uint8_t* tile, int level, int token,
                                      int subvector) const {
      const uint8_t* codes = tile + side.tile_offset + level * plane;
      const int position = order.position(token, subvector);
      int code = codes[position];
      const int high_bits = side.format.bits_per_code - 8;
      if (high_bits > 0) {
        const int high =
            codes[low_bytes + high_byte(position, high_bits)] >> high_shift(position, high_bits);
        code |= (high & ((1 << high_bits) - 1)) << 8;
      }
      return table + ((level << side.format.bits_per_code) + code) * side.format.subvector_dim;
    }
  };

  __device__ int64_t padded_row(int b) const {
    return static_cast<int64_t>(b * p_.kv_heads + head_) * p_.padded_rows() + row_group_ * kRows;
  }

  __device__ void start() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      maximum_[r] = -INFINITY;
      weight_[r] = 0.f;
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) out_[r][i] = 0.f;
    }
  }

  // Takes in up to 32 tokens: log2 scores of this lane's token, and values by (token, dimension).
  template <typename Seen, typename Value>
  __device__ __forceinline__ void absorb(const float (&score)[kRows], Seen seen, int tokens,
                                         Value value) {
    const int lane = threadIdx.x & 31;
    float weight[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float x = seen(r) ? apply_softcap(p_, score[r]) : -INFINITY;
      float largest = x;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        largest = max_nan(largest, __shfl_xor_sync(kFullWarp, largest, distance));
      }
      largest = max_nan(largest, maximum_[r]);
      const float factor = rescale(maximum_[r], largest);
      maximum_[r] = largest;
      weight[r] = rescale(x, largest);
      weight_[r] = weight_[r] * factor + weight[r];
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) out_[r][i] *= factor;
    }
    for (int token = 0; token < tokens; ++token) {
      float w[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) w[r] = __shfl_sync(kFullWarp, weight[r], token);
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) {
        const int dim = lane + 32 * i;
        if (dim >= p_.head_dim) continue;
        const float v = value(token, dim);
#pragma unroll
        for (int r = 0; r < kRows; ++r) out_[r][i] = fmaf(w[r], v, out_[r][i]);
      }
    }
  }

  __device__ void store(float* record) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        weight_[r] += __shfl_xor_sync(kFullWarp, weight_[r], distance);
      }
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) {
        const int dim = lane + 32 * i;
        if (dim < p_.head_dim) record[record_index(r, dim, p_.head_dim)] = out_[r][i];
      }
      if (lane == 0) {
        record[kRows * p_.head_dim + r] = maximum_[r];
        record[kRows * p_.head_dim + kRows + r] = weight_[r];
      }
    }
    __syncwarp();
  }

  const DecodeParams& p_;
  int head_;
  int row_group_;
  float maximum_[kRows];
  float weight_[kRows];
  float out_[kRows][kLaneDims];
};

__global__ void __launch_bounds__(GeneralEngine::kWarps * 32)
    decode_general_kernel(const __grid_constant__ DecodeParams p) {
  extern __shared__ char shared[];
  decode_block<GeneralEngine>(p, shared);
}

}  // namespace vecinfer
