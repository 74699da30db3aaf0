// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Codes to keys or values in the model's space. Included by all.h.

inline void dequantize(const CodesView& codes, const Side& side, const Planes& planes,
                       int64_t batch, int64_t head, const float* matrix, int64_t first,
                       int64_t count, void* out, Dtype dtype) {
  Scratch scratch;
  const int dim = side.head_dim, width = dtype == Dtype::kFloat ? 4 : 2;
  const int64_t stride = (dim + 15) / 16 * 16;
  const CodeFormat& f = side.format;
  float* table = scratch.floats(int64_t(f.num_codes) * f.size() * f.subvector_dim);
  centroid_table(side, head, table);
  float *x = scratch.floats(kTile * stride), *y = scratch.floats(kTile * stride);
  for (int64_t done = 0; done < count;) {
    const int begin = static_cast<int>((first + done) % kTile);
    const int some = count - done < kTile - begin ? static_cast<int>(count - done) : kTile - begin;
    const uint8_t* tile = codes.tile(batch, head, (first + done) / kTile) + side.tile_offset;
    tile_rows(planes, f.subvector_dim, table, tile, begin, some, x, stride);
    inverse(side.transform, matrix, head, dim, x, stride, some, y);
    for (int t = 0; t < some; ++t) {
      store_floats(y + t * stride, static_cast<char*>(out) + (done + t) * dim * width, dtype, dim);
    }
    done += some;
  }
}
