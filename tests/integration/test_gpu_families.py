# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""On a GPU: random models of the shapes of Qwen3-Next and Gemma 4, a few layers each, decode through the kernels.

`pytest -s tests/integration/test_gpu_families.py` prints their time per token beside the default cache.
"""

import time

import pytest
import torch
import transformers
from transformers.cache_utils import DynamicCache

from vecinfer_hf import VecInferCache
from vecinfer_hf.evaluation.random_models import random_codebook, random_model
from vecinfer_hf.integration.attention_switch import use_vecinfer_attention
from vecinfer_hf.integration.compat import cache_argument
from vecinfer_hf.ops import backend as backends
from vecinfer_hf.ops.kernels import HEAD_DIMS


PROMPT, NEW = 2048, 24
_TOKENS = {"vocab_size": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
SHAPES = {
    "Qwen3-Next": lambda: transformers.Qwen3NextConfig(
        **_TOKENS, num_hidden_layers=4, num_experts=16, num_experts_per_tok=4, layer_types=None
    ),
    "Gemma 4 31B": lambda: transformers.Gemma4TextConfig(
        **_TOKENS,
        hidden_size=5376,
        intermediate_size=8192,
        num_hidden_layers=6,
        num_attention_heads=32,
        num_key_value_heads=16,
        num_global_key_value_heads=4,
        attention_k_eq_v=True,
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
    ),
    "Gemma 4 E4B": lambda: transformers.Gemma4TextConfig(
        **_TOKENS,
        hidden_size=2560,
        intermediate_size=8192,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=2,
        num_kv_shared_layers=6,
        vocab_size_per_layer_input=4096,
    ),
}
"""Heads, head sizes and layer types of the published models; fewer layers and experts, a small vocabulary."""


def decoded(shape, device, dtype):
    """Return a cache after a prompt and `NEW` tokens, with seconds per token of it and of the default cache."""
    model = random_model(SHAPES[shape](), dtype, torch.device(device))
    ids = torch.randint(2, 4096, (1, PROMPT), generator=torch.Generator().manual_seed(0)).to(device)
    codebook, seconds = random_codebook(model.config, 2), []
    for make in (lambda: DynamicCache(config=model.config), lambda: VecInferCache(model.config, codebook)):
        cache = make()
        if isinstance(cache, VecInferCache):
            use_vecinfer_attention(model)
        with torch.no_grad():
            token = model(ids, logits_to_keep=1, **cache_argument(cache)).logits[:, -1:].argmax(-1)
            for step in range(NEW):
                if step == NEW // 2:
                    synchronized, started = token.tolist(), time.perf_counter()
                logits = model(token, **cache_argument(cache)).logits
                token = logits[:, -1:].argmax(-1)
        assert len(synchronized) == len(token.tolist())  # waits for the device
        seconds.append((time.perf_counter() - started) / (NEW - NEW // 2))
        assert torch.isfinite(logits).all()
    return cache, seconds


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_published_models_decode_through_the_kernels(shape, monkeypatch, caplog):
    backends.logger.warning_once.cache_clear()
    served = all(
        codebook_shape.key_head_dim == codebook_shape.value_head_dim in HEAD_DIMS
        for codebook_shape in random_codebook(SHAPES[shape](), 2).identity.layers.values()
    )
    if served:

        def refuse(*args, **kwargs):
            raise AssertionError("a torch operator was used")

        reference = backends.Backend("reference", refuse, refuse, refuse, refuse)
        monkeypatch.setitem(backends._BACKENDS, "reference", reference)
    cache, seconds = decoded(shape, "cuda", torch.bfloat16)
    assert {layer.ops_name for layer in cache.quantized_layers} == {"cuda" if served else "reference"}
    assert all(max(layer.storage.quantized) > 0 for layer in cache.quantized_layers)
    if not served:
        # By name, and once.
        told = [record.getMessage() for record in caplog.records if "torch operators" in record.getMessage()]
        assert len(told) == 1
        assert "head_dim 512 is not compiled" in told[0]
    print(f"{shape}: {1e3 * seconds[0]:.2f} ms per token with the default cache, {1e3 * seconds[1]:.2f} ms with codes")


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_run_without_a_gpu(shape, monkeypatch):
    monkeypatch.setitem(globals(), "PROMPT", 160)
    monkeypatch.setitem(globals(), "NEW", 4)
    cache, _ = decoded(shape, "cpu", torch.bfloat16)
    assert all(max(layer.storage.quantized) > 0 for layer in cache.quantized_layers)
