# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention over tensors and blocks of tensors. Nothing here knows a cache layer."""
