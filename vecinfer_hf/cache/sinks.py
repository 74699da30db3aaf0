# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a text's first tokens stay exact, when there is a choice.

A model parks attention it has no use for on a few tokens, whose values it makes small so that this changes nothing.
They are often, not always, the very first ones: Qwen2.5-Coder-1.5B takes the first token that is no digit. Keys have
their positions in them already, so a cache may store any tokens as its sinks and the others in their places.
Owns the choice; layer.py stores by it, calibration/simulate.py simulates it.
"""

from __future__ import annotations

import torch

from ..config import FIRST, SMALL_VALUES


CANDIDATES = 64
"""Tokens besides the sinks themselves that a choice looks at: two tiles, so that the codes behind stay aligned."""


def choose_sinks(
    values: torch.Tensor,
    sink_length: int,
    sink_choice: str = SMALL_VALUES,
    counts: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return which of a text's first tokens become sinks, bool `[B, Hkv, n]`, `n = min(T, sink_length + 64)`.

    Each head chooses for itself.

    Args:
        values: `[B, Hkv, T, D]`, from the first token on.
        sink_length: tokens to choose.
        sink_choice: "small_values" for those with the smallest values, "first" for the first ones.
        counts: int64 `[B]` on the device of `values`, the tokens each row has; default all.
        keep: int64 `[B, Hkv, S]`, tokens that are chosen whatever their values, as far as there are such.
    """
    candidates = values[:, :, : sink_length + CANDIDATES]
    batch, heads, tokens, _ = candidates.shape
    place = torch.arange(tokens, device=values.device)
    if sink_choice == FIRST:
        return (place < sink_length).expand(batch, heads, -1)
    # What is no number counts as large, like what is no token: earlier places win a tie.
    size = candidates.float().square().sum(-1).nan_to_num(torch.inf, torch.inf)
    if keep is not None:
        kept = size.new_zeros(batch, heads, tokens + 1).scatter_(2, keep.clamp_max(tokens), 1)
        size = size.masked_fill(kept[:, :, :tokens].bool(), -1)
    if counts is not None:
        size = size.masked_fill(place >= counts[:, None, None], torch.inf)
    chosen = size.argsort(dim=-1, stable=True)[..., :sink_length]
    return torch.zeros_like(size, dtype=torch.bool).scatter_(2, chosen, True)


def sinks_to_front(chosen: torch.Tensor) -> torch.Tensor:
    """Return the order of tokens that has the chosen ones first, both parts as they were, int64 `[B, Hkv, n]`."""
    return (~chosen).to(torch.uint8).argsort(dim=-1, stable=True)
