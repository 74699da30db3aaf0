// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// One warp's attention over exact tokens (sinks and ring) of one batch row: 16-bit tensor cores, 16
// tokens at a time. Scores are K q^T and outputs V^T P^T, so that rows are the 8 columns of an mma,
// as in the int8 part.
#pragma once

#include "softmax_state.cuh"
#include "work_plan.cuh"

namespace vecinfer {

// Where a batch row's exact tokens of one side lie: sinks, then what the ring holds, oldest first.
class ExactTokens {
 public:
  __device__ __forceinline__ ExactTokens(const DecodeParams& p, const StatesView& sinks,
                                         const StatesView& window, const RowWork& work,
                                         int batch_row, int head)
      : sinks_(static_cast<const uint16_t*>(sinks.data) + batch_row * sinks.batch_stride +
               head * sinks.head_stride),
        window_(static_cast<const uint16_t*>(window.data) + batch_row * window.batch_stride +
                head * window.head_stride),
        sink_stride_(sinks.token_stride),
        window_stride_(window.token_stride),
        num_sinks_(work.sinks),
        last_(work.exact - 1),
        ring_start_(work.coded % p.residual_length - work.sinks),
        residual_length_(p.residual_length) {}

  // Exact token e, or the last one where e is past the end (its weight will be 0).
  __device__ __forceinline__ const uint16_t* row(int e) const {
    e = min(e, last_);
    if (e < num_sinks_) return sinks_ + e * sink_stride_;
    const int slot = ring_start_ + e;
    return window_ + (slot < residual_length_ ? slot : slot - residual_length_) * window_stride_;
  }

 private:
  const uint16_t* sinks_;
  const uint16_t* window_;
  int64_t sink_stride_;
  int64_t window_stride_;
  int num_sinks_;
  int last_;
  int ring_start_;
  int residual_length_;
};

template <int kHeadDim, int kRows, bool kBf16>
class ExactAttention {
  using Pair = HalfPair<kBf16>;
  static constexpr int kColumns = (kRows + 7) / 8;  // mma column blocks
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kLaneWords = kHeadDim / 16;  // words of a token's values in one lane

 public:
  // Attention over units [first, last), to the warp's record in shared memory.
  static __device__ __forceinline__ void run(const DecodeParams& p, const RowWork& work,
                                             int batch_row, int head, int row_group, int first,
                                             int last, float* record) {
    const int lane = threadIdx.x & 31, quad = lane & 3, line = lane >> 2;
    const ExactTokens keys(p, p.sink_keys, p.window_keys, work, batch_row, head);
    const ExactTokens values(p, p.sink_values, p.window_values, work, batch_row, head);
    const float scale = p.softmax_scale * kLog2E;
    const int first_row = row_group * kRows;
    const uint16_t* queries =
        p.query_rows +
        (static_cast<int64_t>(batch_row * p.kv_heads + head) * p.padded_rows() + first_row) *
            kHeadDim;

    uint32_t query[kColumns][kSteps][2];
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      const int row = column * 8 + line;
#pragma unroll
      for (int step = 0; step < kSteps; step += 2) {
        uint4 words = make_uint4(0, 0, 0, 0);
        if (row < kRows) {
          words = *reinterpret_cast<const uint4*>(queries + row * kHeadDim + step * 16 + quad * 8);
        }
        query[column][step][0] = words.x;
        query[column][step][1] = words.y;
        query[column][step + 1][0] = words.z;
        query[column][step + 1][1] = words.w;
      }
    }
    // Last token that each of this lane's rows may see.
    int visible[kColumns][2];
    float maximum[kColumns][2], weight[kColumns][2];
    float out[kColumns][kSteps][4] = {};
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = first_row + column * 8 + quad * 2 + i;
        visible[column][i] = work.length - p.query_tokens + row % p.query_tokens;
        maximum[column][i] = -INFINITY;
        weight[column][i] = 0.f;
      }
    }

    // One row of a unit per lane, keys and values: registers have no room to load a unit ahead.
    const auto prefetch = [&](int unit) {
      const int e = unit * kExactUnit + (lane & (kExactUnit - 1));
      if (unit < last && e < work.exact) {
        prefetch_to_l2(lane < kExactUnit ? keys.row(e) : values.row(e), kHeadDim * 2);
      }
    };
    prefetch(first);

#pragma unroll 1
    for (int unit = first; unit < last; ++unit) {
      const int base = unit * kExactUnit;
      prefetch(unit + 1);
      float score[kColumns][4] = {};
      uint32_t value[4][kLaneWords];
      if constexpr (kEarly) load_values(value, values, base);
      {
        const uint16_t* low = keys.row(base + line) + quad * 8;
        const uint16_t* high = keys.row(base + line + 8) + quad * 8;
        uint4 a[kSteps / 2], b[kSteps / 2];
#pragma unroll
        for (int i = 0; i < kSteps / 2; ++i) {
          a[i] = __ldg(reinterpret_cast<const uint4*>(low + i * 32));
          b[i] = __ldg(reinterpret_cast<const uint4*>(high + i * 32));
        }
#pragma unroll
        for (int i = 0; i < kSteps / 2; ++i) {
#pragma unroll
          for (int column = 0; column < kColumns; ++column) {
            Pair::mma(score[column], a[i].x, b[i].x, a[i].y, b[i].y, query[column][2 * i][0],
                      query[column][2 * i][1]);
            Pair::mma(score[column], a[i].z, b[i].z, a[i].w, b[i].w, query[column][2 * i + 1][0],
                      query[column][2 * i + 1][1]);
          }
        }
      }
      if constexpr (!kEarly) load_values(value, values, base);
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int e = base + line + (i >> 1) * 8;
          const float x = apply_softcap(p, score[column][i] * scale);
          const bool seen =
              e < work.exact && (e < work.sinks ? e : e + work.coded) <= visible[column][i & 1];
          score[column][i] = seen ? x : -INFINITY;
          largest[i & 1] = fmaxf(largest[i & 1], score[column][i]);
        }
        float factor[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int distance = 4; distance < 32; distance *= 2) {
            largest[i] = fmaxf(largest[i], __shfl_xor_sync(kFullWarp, largest[i], distance));
          }
          largest[i] = fmaxf(largest[i], maximum[column][i]);
          factor[i] = rescale(maximum[column][i], largest[i]);
          maximum[column][i] = largest[i];
        }
        float p4[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) p4[i] = rescale(score[column][i], largest[i & 1]);
        weight[column][0] = weight[column][0] * factor[0] + p4[0] + p4[2];
        weight[column][1] = weight[column][1] * factor[1] + p4[1] + p4[3];
        // A second product with what rounding to 16 bits left over.
        uint32_t high[2], low[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t rounded = Pair::pack(p4[2 * i], p4[2 * i + 1]);
          const float2 back = Pair::unpack(rounded);
          high[i] = transpose_8x8(rounded);
          low[i] = transpose_8x8(Pair::pack(p4[2 * i] - back.x, p4[2 * i + 1] - back.y));
        }
        if (__any_sync(kFullWarp, factor[0] != 1.f || factor[1] != 1.f)) {
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            float (&c)[4] = out[column][step];
            c[0] *= factor[0];
            c[1] *= factor[1];
            c[2] *= factor[0];
            c[3] *= factor[1];
          }
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          float (&c)[4] = out[column][step];
          const uint32_t a0 = permute_bytes(value[0][step], value[1][step], 0x5410);
          const uint32_t a1 = permute_bytes(value[0][step], value[1][step], 0x7632);
          const uint32_t a2 = permute_bytes(value[2][step], value[3][step], 0x5410);
          const uint32_t a3 = permute_bytes(value[2][step], value[3][step], 0x7632);
          Pair::mma(c, a0, a1, a2, a3, high[0], high[1]);
          Pair::mma(c, a0, a1, a2, a3, low[0], low[1]);
        }
      }
    }

#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = column * 8 + quad * 2 + i;
#pragma unroll
        for (int distance = 4; distance < 32; distance *= 2) {
          weight[column][i] += __shfl_xor_sync(kFullWarp, weight[column][i], distance);
        }
        if (row < kRows) {
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            const int dim = line * (kHeadDim / 8) + 2 * step;
            record[record_index(row, dim, kHeadDim)] = out[column][step][i];
            record[record_index(row, dim + 1, kHeadDim)] = out[column][step][2 + i];
          }
          if (line == 0) {
            record[kRows * kHeadDim + row] = maximum[column][i];
            record[kRows * kHeadDim + kRows + row] = weight[column][i];
          }
        }
      }
    }
    __syncwarp();
  }

 private:
  // Whether there are registers to fetch values together with keys.
  static constexpr bool kEarly = kHeadDim <= 128 && kRows > 4;

  // 4 tokens of the transposed product: 2 quad, 2 quad + 1, and 8 more.
  static __device__ __forceinline__ void load_values(uint32_t (&value)[4][kLaneWords],
                                                     const ExactTokens& values, int base) {
    const int lane = threadIdx.x & 31, quad = lane & 3, line = lane >> 2;
#pragma unroll
    for (int token = 0; token < 4; ++token) {
      const int e = base + quad * 2 + (token & 1) + (token >> 1) * 8;
      const uint16_t* source = values.row(e) + line * (kHeadDim / 8);
#pragma unroll
      for (int i = 0; i < kLaneWords; i += 4) {
        const uint4 words = __ldg(reinterpret_cast<const uint4*>(source + 2 * i));
        value[token][i] = words.x;
        value[token][i + 1] = words.y;
        value[token][i + 2] = words.z;
        value[token][i + 3] = words.w;
      }
    }
  }
};

}  // namespace vecinfer
