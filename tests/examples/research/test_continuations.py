# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Long greedy texts: what the stock model thinks of them, and which of their tokens repeat something."""

import math

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from examples.research.continuations import fresh_tokens, judge_continuations


def test_without_codes_both_texts_are_the_same():
    model = tiny_model()
    report = judge_continuations(model, tiny_inputs(3, 20), random_codebook(model.config), 30, residual_length=64)
    assert report["agreement_length"] == [30, 30, 30]
    assert report["stock"]["nll"] == report["vecinfer"]["nll"]
    assert report["prompts"] == 3
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_stock_model_reads_what_each_cache_wrote(family):
    model = tiny_model(family)
    prompts = tiny_inputs(2, 60)
    codebook = random_codebook(model.config)
    report = judge_continuations(model, prompts, codebook, 40, residual_length=1, sink_length=0)
    text = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=40, min_new_tokens=40, do_sample=False
    )
    with torch.no_grad():
        logits = model(text).logits[:, 59:-1].double()
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), text[:, 60:], reduction="none")
    assert report["stock"]["nll"] == pytest.approx(nll.mean().item(), abs=1e-4)
    assert report["stock"]["nll_per_prompt"] == pytest.approx(nll.mean(1).tolist(), abs=1e-4)
    assert report["stock"]["perplexity"] == pytest.approx(math.exp(nll.mean()), rel=1e-4)
    # Random centroids: another text, which the stock model finds less likely than its own greedy one.
    assert max(report["agreement_length"]) < 40
    assert report["vecinfer"]["nll"] > report["stock"]["nll"]


def test_end_of_text_does_not_end_it():
    model = tiny_model()
    prompts = tiny_inputs(1, 20)
    first = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=1, do_sample=False)[0, -1]
    model.generation_config.eos_token_id = first.item()
    report = judge_continuations(model, prompts, random_codebook(model.config), 25, residual_length=64)
    assert report["agreement_length"] == [25]


def test_tokens_that_end_something_seen_before_are_not_fresh():
    assert fresh_tokens([1, 2, 3, 1, 2, 3, 1], 0, 2) == [True, True, True, True, False, False, False]
    # The prompt counts as seen, and its own tokens are not judged.
    assert fresh_tokens([1, 2, 3, 2, 3], 3, 2) == [True, False]
    assert fresh_tokens([5] * 6, 1, 3) == [True, True, False, False, False]
    assert fresh_tokens([1, 2], 2) == []
