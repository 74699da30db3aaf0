# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of a prompt under the page rule, against one softmax per token in float64."""

import itertools

import pytest
import torch

from vecinfer_hf.attention.page_prefill import Frame, page_prefill_attention
from vecinfer_hf.attention.page_rule import PageRule


PAGE, SCALE = 32, 0.25
EPS = 2.0**-23


def direct(query, frame, rule, earlier, softcap, sink_logits):
    """What each token must get, and a bound on float32's error: one softmax over all that it sees."""
    outputs, held = [], frame.first_exact * PAGE
    for token in range(query.shape[2]):
        place = frame.offset + token
        section = place // (rule.share_pages * PAGE) * rule.share_pages * PAGE
        begin = max(section, (place // PAGE - rule.exact_pages) * PAGE)
        keys, values = (
            torch.cat([before, read[:, :, :begin], exact[:, :, begin - held : place + 1 - held]], 2)
            .double()
            .repeat_interleave(2, 1)
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


@pytest.mark.parametrize(("softcap", "sinks"), [(None, False), (None, True), (5.0, True)])
@pytest.mark.parametrize("rule", [PageRule(PAGE, 0, 1 << 10), PageRule(PAGE, 2, 5), PageRule(PAGE, 1, 2)])
def test_every_token_sees_what_the_rule_says(rule, sinks, softcap):
    generator = torch.Generator().manual_seed(0)

    def random(heads, tokens):
        return torch.randn(1, heads, tokens, 16, generator=generator)

    cases = itertools.product((0, 5, 31, 70, 130), (1, 7, 33, 64, 300, 517), (0, 96))
    for offset, tokens, before in cases:
        if offset >= rule.share_pages * PAGE:
            continue
        first = rule.first_exact(offset // PAGE)
        read = rule.first_exact((offset + tokens - 1) // PAGE) * PAGE
        earlier = random(2, before), random(2, before)
        halves = [tuple(states[:, :, part] for states in earlier) for part in (slice(0, 50), slice(50, None))]
        exact = [random(2, offset + tokens - first * PAGE) for _ in range(2)]
        coded = random(2, read), random(2, read)
        frame = Frame(*exact, first, offset, *coded, (lambda halves=halves: iter(halves)) if before else None)
        query, logits = random(4, tokens), torch.randn(4, generator=generator) if sinks else None
        expected, bound = direct(query, frame, rule, earlier, softcap, logits)
        output = page_prefill_attention(query, frame, rule, SCALE, softcap, logits)
        assert output.shape == query.shape
        assert (output - expected).abs().max() < bound, (offset, tokens, before)
