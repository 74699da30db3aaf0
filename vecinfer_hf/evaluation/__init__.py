# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements of a VecInfer cache against the stock cache.

Perplexity, generation and memory are measured on the real cache; peers and retrieval in one pass with fake
quantization, which a test holds equal to it.
"""

from ..calibration.windows import text_windows
from .compare import compare, margins
from .continuations import judge_continuations
from .generation import GenerationResult, greedy_agreement
from .intervals import paired_difference
from .memory import cache_nbytes
from .methods import Method, own_method, peer_methods, stock_method
from .needles import needle_samples
from .perplexity import PerplexityResult, evaluate_perplexity
from .plain import plain_layers
from .retrieval import needle_hits, retrieval_report
from .tasks import score_answers, task_report


__all__ = [
    "GenerationResult",
    "Method",
    "PerplexityResult",
    "cache_nbytes",
    "compare",
    "evaluate_perplexity",
    "greedy_agreement",
    "judge_continuations",
    "margins",
    "needle_hits",
    "needle_samples",
    "own_method",
    "paired_difference",
    "peer_methods",
    "plain_layers",
    "retrieval_report",
    "score_answers",
    "stock_method",
    "task_report",
    "text_windows",
]
