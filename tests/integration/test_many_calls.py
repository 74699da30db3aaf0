# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Many calls and many cycles of enable and disable leave nothing behind."""

import gc

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import AttentionInterface, AttentionMaskInterface

from vecinfer_hf import Codebook, VecInferCache, disable, enable, enabled
from vecinfer_hf.integration import attention_switch, generate_call
from vecinfer_hf.integration.resolve import forget_codebooks


def alive():
    """Caches, codebooks and tensors that exist, and the entries of transformers' registries."""
    forget_codebooks()
    gc.collect()
    objects = gc.get_objects()
    kinds = (VecInferCache, Codebook, torch.Tensor)
    counts = [sum(1 for each in objects if type(each) is kind) for kind in kinds]
    return counts, sorted(AttentionInterface().valid_keys()), sorted(AttentionMaskInterface().valid_keys())


@pytest.mark.slow
def test_two_hundred_calls_and_a_hundred_cycles_leave_nothing_behind(tmp_path):
    model = tiny_model("llama")
    random_codebook(model.config).save_pretrained(tmp_path)
    options = {"residual_length": 8, "ops_backend": "reference"}

    def call(**kwargs):
        return model.generate(tiny_inputs(1, 24), max_new_tokens=4, do_sample=False, **kwargs)

    def cycle():
        for _ in range(2):
            call(cache_implementation="vecinfer", cache_config={"codebook": str(tmp_path), **options})
        enable(model, str(tmp_path), **options)
        call()
        disable(model)
        with enabled(model, str(tmp_path), **options):
            call()

    cycle()
    before, names = alive(), sorted(vars(model))
    for _ in range(50):
        cycle()
    assert alive() == before
    assert sorted(vars(model)) == names
    assert attention_switch._running == {}
    assert generate_call._current.get() is None
    assert model.config._attn_implementation == "sdpa"
