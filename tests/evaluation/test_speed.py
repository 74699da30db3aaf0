# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Speed: every cache at every length, read and continued by generate; and a cache that does not fit says so."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_config, tiny_inputs

from vecinfer_hf.evaluation import speed
from vecinfer_hf.evaluation.random_models import LLAMA_8B, random_codebook, random_model, shape_config
from vecinfer_hf.evaluation.speed import CACHES, SpeedResult, TokenClock, compare_speed


CPU = torch.device("cpu")


@pytest.fixture
def model():
    return random_model(tiny_config("llama"), torch.float32, CPU)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_every_cache_is_measured_at_every_length(family):
    model = random_model(tiny_config(family), torch.float32, CPU)
    before, told = model.config._attn_implementation, []
    codebook = random_codebook(model.config, 2)
    # A longer length before a shorter one: the static cache with codes is emptied in between.
    results = list(compare_speed(model, codebook, [300, 200], batch_size=2, new_tokens=12, progress=told.append))
    assert [(row.cache, row.context) for row in results] == [(name, size) for name in CACHES for size in (300, 200)]
    assert told == [f"{row.cache}, {row.context} tokens" for row in results]
    assert model.config._attn_implementation == before
    for row in results:
        assert not row.problem
        assert row.prompt_seconds > 0
        assert row.token_seconds > 0
        assert row.peak_nbytes == 0
    if family == "llama":
        nbytes = {(row.cache, row.context): row.cache_nbytes for row in results}
        # Keys and values, 2 layers, 2 rows, 2 heads of 16 channels, float32; the last token is not read.
        assert nbytes["stock", 300] == 2 * 2 * 2 * 2 * 16 * 4 * (300 + 11)
        assert nbytes["vecinfer", 300] < nbytes["stock", 300]


def test_the_static_cache_is_empty_before_each_prompt(model, monkeypatch):
    lengths = []
    own = speed._generate

    def generate(model, name, cache, *rest):
        if name == speed.VECINFER_STATIC:
            lengths.append((id(cache), int(cache.get_seq_length())))
        return own(model, name, cache, *rest)

    monkeypatch.setattr(speed, "_generate", generate)
    list(compare_speed(model, random_codebook(model.config, 2), [100, 50], new_tokens=10))
    (warm_up, first, second) = lengths
    assert [length for _, length in lengths] == [0, 0, 0]
    assert first[0] == second[0] != warm_up[0]


def test_a_cache_that_does_not_fit_is_a_result_that_says_so(model, monkeypatch):
    own = speed._cache

    def cache(model, codebook, name, size):
        if name == speed.STOCK_STATIC:
            raise torch.OutOfMemoryError("no")
        return own(model, codebook, name, size)

    monkeypatch.setattr(speed, "_cache", cache)
    results = list(compare_speed(model, random_codebook(model.config, 2), [30, 40], new_tokens=10))
    assert [bool(row.problem) for row in results] == [False, False, True, True, False, False, False, False]
    assert results[2].problem == "out of memory"
    assert results[2].to_dict()["tokens_per_second"] == 0


def test_too_few_tokens_to_time_any_are_refused(model):
    with pytest.raises(ValueError, match="new_tokens is 9; the first 8 are not timed"):
        list(compare_speed(model, random_codebook(model.config, 2), [30], new_tokens=9))


def test_rates_count_the_whole_batch():
    assert SpeedResult("stock", 8, 100, token_seconds=0.5).to_dict()["tokens_per_second"] == 16


def test_the_clock_notes_every_token_and_stops_nothing():
    clock = TokenClock()
    ids = torch.zeros(3, 2, dtype=torch.long)
    for _ in range(3):
        assert clock(ids, None).tolist() == [False] * 3
    assert clock.times == sorted(clock.times)
    assert clock.steps() == [clock.times[1] - clock.times[0], clock.times[2] - clock.times[1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_random_models_run_repeat_themselves_and_never_end_a_text(family):
    state = torch.get_rng_state()
    one, two = (random_model(tiny_config(family, eos_token_id=5), torch.bfloat16, CPU) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        logits = one(tiny_inputs(1, 20)).logits
        assert torch.equal(logits, two(tiny_inputs(1, 20)).logits)
    assert logits.isfinite().all()
    assert one.dtype == torch.bfloat16
    assert one.generation_config.eos_token_id is None


def test_the_known_shape_has_the_weights_of_llama_8b():
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape_config(LLAMA_8B))
    # Llama 3.1 8B has 8,030,261,248 parameters (its model card and safetensors index).
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_030_261_248


def test_a_shape_that_cannot_have_codes_is_refused(tmp_path):
    from transformers import T5Config

    T5Config(num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="No VecInfer cache for .*encoder-decoder"):
        shape_config(str(tmp_path))
