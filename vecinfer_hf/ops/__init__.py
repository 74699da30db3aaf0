# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The operators on a layer's codebook and buffers; backend.py chooses who computes them."""
