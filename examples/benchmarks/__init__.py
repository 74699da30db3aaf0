# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Whole-model benchmarks: time to the first token, time per token and memory, against transformers' own caches."""
