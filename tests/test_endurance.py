# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Long use: thousands of tokens, hundreds of calls, several threads. Memory, registries and results stay right.

The slow tests run the whole amounts; the others run a part of each in a few seconds.
"""

import gc
import threading
import weakref

import psutil
import pytest
import torch
from edge_cases import greedy, new_cache, tiny_model
from method_hooks import following
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.generation import GenerationMixin, configuration_utils
from transformers.quantizers import auto

import vecinfer_hf
from vecinfer_hf import VecInferCache, VecInferConfig
from vecinfer_hf.integration.compat import cache_argument
from vecinfer_hf.quantization.packing import bytes_per_tile


ONLINE = VecInferConfig(codebook="online", ops_backend="reference", residual_length=8)
MIB = 1 << 20


def registries():
    """Everything of transformers that the package may touch, by identity."""
    return {
        "caches": configuration_utils.ALL_CACHE_IMPLEMENTATIONS,
        "attention": dict(AttentionInterface._global_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "quantizers": dict(auto.AUTO_QUANTIZER_MAPPING),
        "configs": dict(auto.AUTO_QUANTIZATION_CONFIG_MAPPING),
        "prepare": GenerationMixin._prepare_cache_for_generation,
        "compile": PreTrainedModel.get_compiled_call,
        "generate": GenerationMixin.generate,
    }


def resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def alive(kind) -> int:
    """Return how many objects of a class live."""
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


@pytest.mark.parametrize("steps", [100, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("static", [False, True], ids=["growing", "static"])
def test_many_decode_steps(steps, static):
    """The storage is that of the codes, and the last tokens are answered as METHOD.md says."""
    model = tiny_model("llama", max_position_embeddings=1 << 15)
    model.set_attn_implementation("vecinfer")
    cache = new_cache(model.config, room=steps + 60 if static else None)
    ids = tiny_inputs(1, 40)
    with torch.no_grad():
        token = model(ids, **cache_argument(cache)).logits[:, -1:].argmax(-1)
        before = resident()
        for _ in range(steps):
            token = model(token, **cache_argument(cache)).logits[:, -1:].argmax(-1)
    assert int(cache.get_seq_length()) == 40 + steps
    per_token = sum(2 * bytes_per_tile(*cache.codebook.formats(index), 16) / 32 for index in cache.codebook.layers)
    room = 1.2 * per_token * (steps + 60) + 4 * 2 * 2 * 2 * 12 * 16 * 4 + cache.codebook.nbytes + 64 * 1024
    assert cache.nbytes <= room
    assert resident() - before < room + 64 * MIB
    with torch.no_grad():
        assert model(ids[:, :5], **cache_argument(cache)).logits.isfinite().all()


@pytest.mark.parametrize("steps", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_every_step_of_a_long_text_is_that_of_the_method(steps, family):
    model = tiny_model(family)
    model.set_attn_implementation("vecinfer")
    with following(model) as follower:
        cache = new_cache(model.config)
        greedy(model, tiny_inputs(1, 40), cache, new=steps)
        follower.audit(cache)
        assert follower.compared == 2 * steps


@pytest.mark.parametrize("calls", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_many_generate_calls(calls):
    """Neither memory nor caches pile up, and the last call answers as the first."""
    model = vecinfer_hf.enable(tiny_model("llama"), ONLINE)
    ids = tiny_inputs(2, 60)
    want = [greedy(model, ids, new=5) for _ in range(3)][-1]
    before, caches, state = resident(), alive(VecInferCache), registries()
    for _ in range(calls):
        got = greedy(model, ids, new=5)
    assert torch.equal(got, want)
    assert registries() == state
    assert alive(VecInferCache) <= caches
    assert resident() - before < 48 * MIB


def test_a_cache_is_freed_when_its_user_lets_go():
    model = tiny_model("llama")
    cache = new_cache(model.config)
    greedy(model, tiny_inputs(1, 40), cache)
    watched = weakref.ref(cache)
    del cache
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("cycles", [4, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_many_cycles_of_enable_and_disable(cycles, family):
    """After each the model is as it was: attention, generation config, attributes, registries and answers."""
    model = tiny_model(family)
    ids = tiny_inputs(1, 40)
    stock = greedy(model, ids, new=4)
    coded = greedy(vecinfer_hf.enable(model, ONLINE), ids, new=4)
    vecinfer_hf.disable(model)
    attention, config, state = model.config._attn_implementation, model.generation_config.to_dict(), registries()
    names, before = set(vars(model)), resident()
    for _ in range(cycles):
        vecinfer_hf.enable(model, ONLINE)
        assert torch.equal(greedy(model, ids, new=4), coded)
        vecinfer_hf.disable(model)
        assert model.config._attn_implementation == attention
        assert model.generation_config.to_dict() == config
        assert set(vars(model)) == names
    assert torch.equal(greedy(model, ids, new=4), stock)
    assert registries() == state
    assert resident() - before < 48 * MIB


@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shared", ["model", "nothing"])
def test_six_threads(rounds, shared):
    """Caches in threads do not meet, whether the threads share a model or not."""
    models = [tiny_model("llama")] * 6 if shared == "model" else [tiny_model("llama", seed=i) for i in range(6)]
    codebook = random_codebook(models[0].config)
    ids = [tiny_inputs(1, 20 + 7 * number, seed=number) for number in range(6)]
    want = [
        greedy(model, each, new_cache(model.config, codebook=codebook), new=8)
        for model, each in zip(models, ids, strict=True)
    ]
    stock = [greedy(model, each, new=8) for model, each in zip(models, ids, strict=True)]
    wrong = []

    def work(number):
        for turn in range(rounds):
            cache = new_cache(models[number].config, codebook=codebook)
            if not torch.equal(greedy(models[number], ids[number], cache, new=8), want[number]):
                wrong.append((number, turn, "codes"))
            # Others beside it use transformers' own cache.
            if turn % 2 and not torch.equal(greedy(models[number], ids[number], new=8), stock[number]):
                wrong.append((number, turn, "default cache"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    state = registries()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert registries() == state


@pytest.mark.slow
def test_threads_that_enable_and_disable_their_own_models():
    models = [tiny_model("llama", seed=number) for number in range(6)]
    ids, wrong = tiny_inputs(1, 30), []
    want = [greedy(model, ids, new=4) for model in models]

    def work(number):
        for _ in range(20):
            vecinfer_hf.enable(models[number], ONLINE)
            greedy(models[number], ids, new=4)
            vecinfer_hf.disable(models[number])
            if not torch.equal(greedy(models[number], ids, new=4), want[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    state = registries()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert registries() == state
