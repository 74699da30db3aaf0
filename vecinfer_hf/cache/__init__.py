# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The cache: the transformers Cache subclass, its layers, and what they store."""
