// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// One warp's attention over exact tokens (sinks and ring) of one batch row: 16-bit tensor cores, 8
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
                                         const StatesView& ring, const RowWork& work, int batch_row,
                                         int head)
      : sinks_(static_cast<const uint16_t*>(sinks.data) + batch_row * sinks.batch_stride +
               head * sinks.head_stride),
        ring_(static_cast<const uint16_t*>(ring.data) + batch_row * ring.batch_stride +
              head * ring.head_stride),
        sink_stride_(sinks.token_stride),
        ring_stride_(ring.token_stride),
        num_sinks_(work.sinks),
        last_(work.exact - 1),
        ring_start_(work.coded % p.ring_slots - work.sinks),
        ring_slots_(p.ring_slots) {}

  // Exact token e, or the last one where e is past the end (its weight will be 0).
  __device__ __forceinline__ const uint16_t* row(int e) const {
    e = min(e, last_);
    if (e < num_sinks_) return sinks_ + e * sink_stride_;
    const int slot = ring_start_ + e;
    return ring_ + (slot < ring_slots_ ? slot : slot - ring_slots_) * ring_stride_;
  }

 private:
  const uint16_t* sinks_;
  const uint16_t* ring_;
  int64_t sink_stride_;
  int64_t ring_stride_;
  int num_sinks_;
  int last_;
  int ring_start_;
  int ring_slots_;
};

// The warp's ring of exact tokens in shared memory, in the place of its ring of tiles: chunks of a
// unit's keys, then of its values, then of the next unit's keys. Each lane copies what it will read
// itself, so no barrier is needed.
template <int kHeadDim, int kSlots>
class ExactRing {
 public:
  static constexpr int kParts = kHeadDim / 32;  // of 16 bytes: what a lane has of a chunk
  static constexpr int kChunkBytes = kParts * 512;

  // Starts on units [first, last).
  __device__ __forceinline__ ExactRing(const DecodeParams& p, const RowWork& work, int batch_row,
                                       int head, int first, int last, uint32_t address)
      : keys_(p, p.sink_keys, p.ring_keys, work, batch_row, head),
        values_(p, p.sink_values, p.ring_values, work, batch_row, head),
        last_(last),
        address_(address + (threadIdx.x & 31) * 16),
        slot_(0) {
#pragma unroll
    for (int chunk = 0; chunk < kSlots; ++chunk) issue(chunk, first);
  }

  // The keys (kAhead 0) or values (1) of the unit into registers; fetches what comes kSlots chunks
  // later into their place.
  template <int kChunk>
  __device__ __forceinline__ void take(int unit, uint4 (&parts)[kParts]) {
    wait_copies<kSlots - 1>();
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      uint32_t words[4];
      load_shared<16>(words, address_ + slot_ * kChunkBytes + i * 512);
      parts[i] = make_uint4(words[0], words[1], words[2], words[3]);
    }
    issue(kChunk + kSlots, unit, slot_);
    slot_ = slot_ == kSlots - 1 ? 0 : slot_ + 1;
  }

 private:
  __device__ __forceinline__ void issue(int chunk, int unit) { issue(chunk, unit, chunk); }

  // Fetches the chunk that is `chunk` behind the unit's keys, or commits an empty group, so that
  // groups count chunks.
  __device__ __forceinline__ void issue(int chunk, int unit, int slot) {
    unit += chunk / 2;
    if (unit < last_) {
      const int lane = threadIdx.x & 31, quad = lane & 3, line = lane >> 2;
      const uint32_t target = address_ + slot * kChunkBytes;
      const int base = unit * kExactUnit;
      if (chunk % 2 == 0) {
        // Token `line`, dimensions 8 quad.. of each 32: words of one row of the product.
        const uint16_t* source = keys_.row(base + line) + quad * 8;
#pragma unroll
        for (int i = 0; i < kParts; ++i) stream_async<16>(target + i * 512, source + i * 32);
      } else {
        // Tokens 2 quad and 2 quad + 1, dimensions 8 line.. of each 64.
#pragma unroll
        for (int token = 0; token < 2; ++token) {
          const uint16_t* source = values_.row(base + quad * 2 + token) + line * 8;
#pragma unroll
          for (int i = 0; i < kParts / 2; ++i) {
            stream_async<16>(target + (token * kParts / 2 + i) * 512, source + i * 64);
          }
        }
      }
    }
    commit_copies();
  }

  ExactTokens keys_, values_;
  int last_;
  uint32_t address_;
  int slot_;
};

template <int kHeadDim, int kRows, bool kBf16>
class ExactAttention {
  using Pair = HalfPair<kBf16>;
  static constexpr int kColumns = (kRows + 7) / 8;  // mma column blocks
  static constexpr int kParts = kHeadDim / 32;
  static constexpr int kSteps = kHeadDim / 16;

 public:
  // Attention over units [first, last), on which the ring has started, to the warp's record in
  // shared memory.
  template <int kSlots>
  static __device__ __forceinline__ void run(const DecodeParams& p,
                                             ExactRing<kHeadDim, kSlots>& ring, const RowWork& work,
                                             int batch_row, int head, int row_group, int first,
                                             int last, float* record) {
    const int lane = threadIdx.x & 31, quad = lane & 3, line = lane >> 2;
    const float scale = p.softmax_scale * kLog2E;
    const int first_row = row_group * kRows;

    uint4 query[kColumns][kParts];
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      const int row = column * 8 + line;
      const uint16_t* source = p.query_row(batch_row, head, first_row + row) + quad * 8;
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        query[column][i] = make_uint4(0, 0, 0, 0);
        if (row < kRows) {
          query[column][i] = __ldg(reinterpret_cast<const uint4*>(source + i * 32));
        }
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
        visible[column][i] =
            work.length - p.query_tokens + row - p.by_query_tokens.divide(row) * p.query_tokens;
        maximum[column][i] = -INFINITY;
        weight[column][i] = 0.f;
      }
    }

#pragma unroll 1
    for (int unit = first; unit < last; ++unit) {
      const int e = unit * kExactUnit + line;
      const int index = e < work.sinks ? e : e + work.coded;
      uint4 part[kParts];
      ring.template take<0>(unit, part);
      // A lane's four words of a part stand in both halves of A's rows: one product gives the sum
      // of two of them for the upper rows, the other that of the others for the lower ones.
      float upper[kColumns][4] = {}, lower[kColumns][4] = {};
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          const uint4& q = query[column][i];
          Pair::mma(upper[column], part[i].x, part[i].y, part[i].z, part[i].w, q.x, q.z);
          Pair::mma(lower[column], part[i].x, part[i].y, part[i].z, part[i].w, q.y, q.w);
        }
      }
      uint32_t high[kColumns], low[kColumns];
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        float p2[2], factor[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float x = apply_softcap(p, (upper[column][i] + lower[column][2 + i]) * scale);
          const float score = e < work.exact && index <= visible[column][i] ? x : -INFINITY;
          float largest = score;
#pragma unroll
          for (int distance = 4; distance < 32; distance *= 2) {
            largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, distance));
          }
          largest = fmaxf(largest, maximum[column][i]);
          factor[i] = rescale(maximum[column][i], largest);
          maximum[column][i] = largest;
          p2[i] = rescale(score, largest);
          weight[column][i] = weight[column][i] * factor[i] + p2[i];
        }
        // A second product with what rounding to 16 bits left over.
        const uint32_t rounded = Pair::pack(p2[0], p2[1]);
        const float2 back = Pair::unpack(rounded);
        high[column] = transpose_8x8(rounded);
        low[column] = transpose_8x8(Pair::pack(p2[0] - back.x, p2[1] - back.y));
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
      }
      ring.template take<1>(unit, part);
#pragma unroll
      for (int i = 0; i < kParts / 2; ++i) {
        const uint4 &x = part[i], &y = part[kParts / 2 + i];
        const uint32_t token[2][4] = {{x.x, x.y, x.z, x.w}, {y.x, y.y, y.z, y.w}};
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          const uint32_t a0 = permute_bytes(token[0][word], token[1][word], 0x5410);
          const uint32_t a1 = permute_bytes(token[0][word], token[1][word], 0x7632);
#pragma unroll
          for (int column = 0; column < kColumns; ++column) {
            Pair::mma_short(out[column][i * 4 + word], a0, a1, high[column]);
            Pair::mma_short(out[column][i * 4 + word], a0, a1, low[column]);
          }
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
            const int dim = step / 4 * 64 + line * 8 + step % 4 * 2;
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
};

}  // namespace vecinfer
