# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How often the host waits for the GPU in a decode step, counted by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


WAITS = ("cudaDeviceSynchronize", "cudaEventSynchronize", "cudaStreamSynchronize")
"""Calls of the CUDA runtime with which the host waits; reading a number off the GPU is one of them."""
READS = ("aten::_local_scalar_dense",)
"""What is counted without a GPU: numbers that are read off tensors."""


def synchronizations_per_token(generate: Callable[[int], None], tokens: int) -> float:
    """Return the host's waits per token, those of `generate`'s own start and end left out.

    Args:
        generate: generates so many tokens.
        tokens: tokens of the short run; the long one has twice as many.
    """
    short, long = _waits(generate, tokens), _waits(generate, 2 * tokens)
    return (long - short) / tokens


def _waits(generate: Callable[[int], None], tokens: int) -> int:
    cuda = torch.cuda.is_available()
    names = WAITS if cuda else READS
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        generate(tokens)
    return sum(event.count for event in profiler.key_averages() if event.key in names)
