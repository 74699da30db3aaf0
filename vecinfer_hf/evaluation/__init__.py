# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements of a VecInfer cache against the stock cache, on the real cache and never on a simulation of it."""

from .generation import GenerationResult, greedy_agreement
from .memory import cache_nbytes
from .perplexity import PerplexityResult, evaluate_perplexity, text_windows


__all__ = [
    "GenerationResult",
    "PerplexityResult",
    "cache_nbytes",
    "evaluate_perplexity",
    "greedy_agreement",
    "text_windows",
]
