# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Tensor maths of vector quantization: formats, transforms, codes, centroids. No transformers, no files."""
