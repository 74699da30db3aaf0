# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of a prompt under the page rule, against one softmax per token in float64."""

import itertools

import pytest
import torch

from vecinfer_hf.attention.page_prefill import Frame, page_prefill_attention


PAGE, SCALE = 32, 0.25
EPS = 2.0**-23


def direct(query, frame, earlier, softcap, sink_logits):
    """What each token must get, and a bound on float32's error: one softmax over all that it sees."""
    outputs = []
    for token in range(query.shape[2]):
        begin = (frame.offset + token) // PAGE * PAGE
        own = slice(begin, frame.offset + token + 1)
        keys, values = (
            torch.cat([before, read[:, :, :begin], exact[:, :, own]], 2).double().repeat_interleave(2, 1)
            for before, read, exact in zip(
                earlier, (frame.read_keys, frame.read_values), (frame.keys, frame.values), strict=True
            )
        )
        scores = query[:, :, token : token + 1].double() @ keys.transpose(-1, -2) * SCALE
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        if sink_logits is not None:
            scores = torch.cat([scores, sink_logits.double().view(1, -1, 1, 1)], -1)
        weights = scores.softmax(-1)[..., : keys.shape[2]]
        outputs.append(weights @ values)
    # Scores are below 8 in size; a weight errs by their error, 16 products' roundings, and the sum by one per token.
    return torch.cat(outputs, 2), EPS * (2 * 8 * 24 + 1200) * 4


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("offset", [0, 5, 31])
def test_every_token_sees_its_page_exactly_and_earlier_pages_as_they_are_read(offset, sinks, softcap):
    generator = torch.Generator().manual_seed(offset)

    def random(heads, tokens):
        return torch.randn(1, heads, tokens, 16, generator=generator)

    for tokens, before in itertools.product((1, 7, 27, 32, 33, 64, 300, 517), (0, 96)):
        pages = -(-(offset + tokens) // PAGE)
        earlier = random(2, before), random(2, before)
        halves = [tuple(states[:, :, part] for states in earlier) for part in (slice(0, 50), slice(50, None))]
        read = random(2, (pages - 1) * PAGE), random(2, (pages - 1) * PAGE)
        exact = random(2, offset + tokens), random(2, offset + tokens)
        frame = Frame(*exact, offset, *read, (lambda halves=halves: iter(halves)) if before else None)
        query, logits = random(4, tokens), torch.randn(4, generator=generator) if sinks else None
        expected, bound = direct(query, frame, earlier, softcap, logits)
        output = page_prefill_attention(query, frame, PAGE, SCALE, softcap, logits)
        assert output.shape == query.shape
        assert (output - expected).abs().max() < bound, (tokens, before)
