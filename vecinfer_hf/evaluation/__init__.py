# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements of a VecInfer cache beside the stock cache: perplexity, greedy text, memory and speed."""

from ..calibration.windows import text_windows
from .generation import GenerationResult, greedy_agreement
from .memory import cache_nbytes
from .perplexity import PerplexityResult, evaluate_perplexity
from .speed import SpeedResult, compare_speed


__all__ = [
    "GenerationResult",
    "PerplexityResult",
    "SpeedResult",
    "cache_nbytes",
    "compare_speed",
    "evaluate_perplexity",
    "greedy_agreement",
    "text_windows",
]
