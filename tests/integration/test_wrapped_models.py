# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""enable.py on a model inside a wrapper: PEFT's, one that behaves like it, torch.compile's, a data-parallel one."""

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers.cache_utils import DynamicCache

from vecinfer_hf import VecInferCache, disable, enable, enabled
from vecinfer_hf.integration.compat import returned_cache


class LikePeft(torch.nn.Module):
    """As PEFT's wrapper: it answers for the model's attributes, but they cannot be deleted there."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)

    def get_base_model(self):
        return self.base_model

    def generate(self, *args, **kwargs):
        self.base_model.generation_config = self.generation_config
        return self.base_model.generate(*args, **kwargs)


def peft(model):
    library = pytest.importorskip("peft")
    return library.get_peft_model(model, library.LoraConfig(target_modules=["q_proj", "v_proj"], r=2))


WRAPPERS = {
    "like PEFT": LikePeft,
    "PEFT": peft,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "data parallel": torch.nn.DataParallel,
}


def used_cache(wrapped, inner):
    generate = getattr(wrapped, "generate", inner.generate)
    output = generate(input_ids=tiny_inputs(1, 40), max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    return returned_cache(output)


# PEFT 0.21 asks transformers 5.24 for an attribute by its old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", WRAPPERS)
def test_enable_disable_and_the_block_reach_the_model_inside(name):
    inner = tiny_model("llama")
    inner.set_attn_implementation("eager")
    wrapped = WRAPPERS[name](inner)
    before, codebook = sorted(vars(inner)), random_codebook(inner.config)
    assert enable(wrapped, codebook, residual_length=16) is wrapped
    assert used_cache(wrapped, inner).layers[0].residual_length == 16
    with enabled(wrapped, codebook, residual_length=8):
        assert used_cache(wrapped, inner).layers[0].residual_length == 8
    assert disable(wrapped) is wrapped
    assert inner.config._attn_implementation == "eager"
    assert sorted(vars(inner)) == before
    assert "_vecinfer" not in vars(wrapped)
    assert type(used_cache(wrapped, inner)) is DynamicCache
    with enabled(wrapped, codebook):
        assert isinstance(used_cache(wrapped, inner), VecInferCache)
    assert inner.config._attn_implementation == "eager"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_cache_is_made_for_the_model_inside(name):
    inner = tiny_model("llama")
    cache = VecInferCache(WRAPPERS[name](inner), random_codebook(inner.config), residual_length=8)
    assert len(cache.quantized_layers) == inner.config.num_hidden_layers
