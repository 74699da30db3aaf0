# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements of a VecInfer cache against the stock cache.

Perplexity, generation and memory are measured on the real cache; peers and retrieval in a one-pass simulation, which
a test holds equal to it.
"""

from .compare import compare
from .generation import GenerationResult, greedy_agreement
from .memory import cache_nbytes
from .perplexity import PerplexityResult, evaluate_perplexity, text_windows
from .retrieval import needle_hits, needle_samples


__all__ = [
    "GenerationResult",
    "PerplexityResult",
    "cache_nbytes",
    "compare",
    "evaluate_perplexity",
    "greedy_agreement",
    "needle_hits",
    "needle_samples",
    "text_windows",
]
