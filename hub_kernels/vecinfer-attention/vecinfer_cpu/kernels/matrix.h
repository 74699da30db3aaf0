// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// y = x m, and the transforms of a codebook. Rows of x and y lie `stride` floats apart, a multiple
// of 16 and at least D; what lies behind D is 0 in both. Included by kernels/all.h.

template <int kRows, int kColumns>
VECINFER_INLINE void product_block(const float* x, int64_t stride, const float* m, int64_t m_stride,
                                   int depth, float* y, int part) {
  vf sum[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) sum[r][c] = vf{};
  }
  for (int k = 0; k < depth; ++k) {
    vf row[kColumns];
    for (int c = 0; c < kColumns; ++c) {
      row[c] = part > 0 ? vload_part(m + k * m_stride, part) : vload(m + k * m_stride + c * kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const vf scalar = vset(x[r * stride + k]);
      for (int c = 0; c < kColumns; ++c) sum[r][c] += scalar * row[c];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) vstore(y + r * stride + c * kLanes, sum[r][c]);
  }
}

template <int kRows>
VECINFER_INLINE void product_rows(const float* x, int64_t stride, const float* m, int dim,
                                  float* y) {
  int n = 0;
  for (; n + 4 * kLanes <= dim; n += 4 * kLanes) {
    product_block<kRows, 4>(x, stride, m + n, dim, dim, y + n, 0);
  }
  for (; n + kLanes <= dim; n += kLanes) {
    product_block<kRows, 1>(x, stride, m + n, dim, dim, y + n, 0);
  }
  if (n < dim) product_block<kRows, 1>(x, stride, m + n, dim, dim, y + n, dim - n);
}

// y [rows][stride] = x [rows][stride] times m [dim][dim].
inline void multiply(const float* x, int64_t stride, int rows, const float* m, int dim, float* y) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) product_rows<4>(x + r * stride, stride, m, dim, y + r * stride);
  for (; r < rows; ++r) product_rows<1>(x + r * stride, stride, m, dim, y + r * stride);
}

// The orthonormal block Walsh-Hadamard transform of one row, in place.
inline void hadamard(float* row, int dim) {
  const int block = dim & -dim;
  for (int start = 0; start < dim; start += block) {
    float* x = row + start;
    for (int step = 1; step < block; step *= 2) {
      for (int i = 0; i < block; i += 2 * step) {
        for (int j = i; j < i + step; ++j) {
          const float a = x[j], b = x[j + step];
          x[j] = a + b;
          x[j + step] = a - b;
        }
      }
    }
  }
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(block));
  for (int i = 0; i < dim; ++i) row[i] *= scale;
}

// y = ((x - mean) * weight) H or (x - mean) m; x is changed.
inline void forward(const Transform& transform, int64_t head, int dim, float* x, int64_t stride,
                    int rows, float* y) {
  if (transform.mean != nullptr) {
    const float* mean = transform.mean + head * dim;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < dim; ++i) x[r * stride + i] -= mean[i];
    }
  }
  if (transform.kind == TransformKind::kFull) {
    multiply(x, stride, rows, transform.weight + head * dim * dim, dim, y);
    return;
  }
  for (int r = 0; r < rows; ++r) {
    float* to = y + r * stride;
    const float* from = x + r * stride;
    if (transform.kind == TransformKind::kNone) {
      for (int i = 0; i < dim; ++i) to[i] = from[i];
      continue;
    }
    const float* weight = transform.weight + head * dim;
    for (int i = 0; i < dim; ++i) to[i] = from[i] * weight[i];
    hadamard(to, dim);
  }
}

// y = (x H) * weight + mean or x m + mean; x is changed. `matrix` [dim][dim] is m where the kind is
// a full matrix: keys take the transpose of what is stored.
inline void inverse(const Transform& transform, const float* matrix, int64_t head, int dim,
                    float* x, int64_t stride, int rows, float* y) {
  if (transform.kind == TransformKind::kFull) {
    multiply(x, stride, rows, matrix, dim, y);
  } else {
    for (int r = 0; r < rows; ++r) {
      float *from = x + r * stride, *to = y + r * stride;
      if (transform.kind == TransformKind::kNone) {
        for (int i = 0; i < dim; ++i) to[i] = from[i];
        continue;
      }
      const float* weight = transform.weight + head * dim;
      hadamard(from, dim);
      for (int i = 0; i < dim; ++i) to[i] = from[i] * weight[i];
    }
  }
  if (transform.mean == nullptr) return;
  const float* mean = transform.mean + head * dim;
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < dim; ++i) y[r * stride + i] += mean[i];
  }
}
