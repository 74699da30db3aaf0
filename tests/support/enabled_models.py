# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of `enable` look at: the cache a call used, and everything of a model that `enable` may change."""

from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs

from vecinfer_hf.integration.compat import returned_cache


OPTIONS = {"residual_length": 16, "ops_backend": "reference"}


def save_codebook(path):
    """Save a codebook for the tiny llama, made for a window of 32 tokens; return its directory as text."""
    codebook = random_codebook(tiny_config("llama"))
    codebook.config.residual_length = 32
    codebook.save_pretrained(path)
    return str(path)


def used_cache(model, **kwargs):
    """The cache of a short greedy `generate`."""
    output = model.generate(
        tiny_inputs(1, 40), max_new_tokens=5, do_sample=False, return_dict_in_generate=True, **kwargs
    )
    return returned_cache(output)


def state(model):
    """Everything of a model that `enable` may change."""
    return {
        "attention": model.config._attn_implementation,
        "config": model.config.to_json_string(),
        "generation": (model.generation_config.cache_config, model.generation_config.cache_implementation),
        "attributes": sorted(vars(model)),
        "hooks": len(model._forward_hooks) + len(model._forward_pre_hooks),
    }
