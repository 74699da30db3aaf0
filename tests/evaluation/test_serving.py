# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements of continuous batching: every row is measured for both caches, and counts are what they must be."""

from dataclasses import replace

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_model

from vecinfer_hf.evaluation.serving import ServingShape, Workload, measure_serving
from vecinfer_hf.integration.continuous_batching import why_unsupported


pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason=f"{why_unsupported()}")
SHAPE = ServingShape(160, (2, 40), 70, (Workload("shared", 3, 80, 64, 4),))
OPTIONS = {"num_blocks": 40, "max_batch_tokens": 128, "max_requests_per_batch": 4, "auto_switch_to_flash": False}


def test_every_measurement_of_both_caches(monkeypatch):
    monkeypatch.setattr("vecinfer_hf.integration.paged_manager.SHARE_TOKENS", 32)
    model = tiny_model("llama", dtype=torch.bfloat16)
    attention = model.config._attn_implementation
    codebook = random_codebook(model.config)
    codebook.config = replace(codebook.config, residual_length=0)
    rows = list(measure_serving(model, codebook, SHAPE, OPTIONS, page_tokens=32))
    assert [row.problem for row in rows] == [""] * 10
    assert model.config._attn_implementation == attention
    found = {(row.what, row.shape, row.cache): row.values for row in rows}
    room = found["room", "requests of 160 tokens", "vecinfer"]
    # 40 blocks asked for: 5 pages, 1 header block and the page that grows, for each request.
    assert room["requests"] == min(4, 40 // 7)
    assert room["cache_bytes"] > codebook.nbytes
    assert found["decode", "2 requests of 40 tokens", "vecinfer"]["requests"] == 2
    assert found["decode", "all that fit, 160 tokens each", "vecinfer"]["requests"] == room["requests"]
    for cache in ("default", "vecinfer"):
        work = found["workload", "shared", cache]
        assert work["tokens_per_second"] == pytest.approx(12 / work["seconds"])
        assert work["first_token_seconds_p50"] <= work["first_token_seconds_p99"] <= work["seconds"]
        assert found["prompt", "70 tokens", cache]["first_token_seconds"] > 0
    # 2 shared pages and a header of 1 block, and one page more for each of 3 requests.
    assert found["workload", "shared", "vecinfer"]["most_pages"] == 3 + 3


def test_a_measurement_that_fails_is_told_and_others_go_on():
    model = tiny_model("llama")
    shape = ServingShape(64, (1, 40), 5000, ())
    rows = list(measure_serving(model, random_codebook(model.config), shape, OPTIONS, ("vecinfer",), page_tokens=32))
    problems = {row.what: row.problem for row in rows}
    assert "5000 tokens with 1 new ones does not fit" in problems["prompt"]
    assert problems["room"] == problems["decode"] == ""
