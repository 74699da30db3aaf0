# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""attention_switch.py: a model's attention never changes under a call, and comes back when the last one ends."""

import threading

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf import UnsupportedCallError, disable, enable
from vecinfer_hf.integration import attention_switch
from vecinfer_hf.integration.attention_switch import (
    attention_of_call,
    own_attention,
    restore_attention,
    use_vecinfer_attention,
)


@pytest.fixture
def model():
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    yield model
    assert attention_switch._running == {}


def now(model):
    return model.config._attn_implementation


def test_the_last_of_several_calls_restores(model):
    calls = [attention_of_call(model, needs) for needs in (True, False, True)]
    for call in calls:
        call.__enter__()
        assert now(model) == "vecinfer"
    assert own_attention(model) == "eager"
    for call in (calls[0], calls[2]):
        call.__exit__(None, None, None)
        assert now(model) == "vecinfer"
    calls[1].__exit__(None, None, None)
    assert now(model) == "eager"


def test_an_error_restores(model):
    with pytest.raises(ZeroDivisionError), attention_of_call(model, True):
        1 / 0  # noqa: B018
    assert now(model) == "eager"


def test_what_a_user_sets_within_a_call_stays(model):
    with attention_of_call(model, True):
        model.set_attn_implementation("sdpa")
    assert now(model) == "sdpa"


def test_a_call_without_codes_changes_nothing(model):
    with attention_of_call(model, False):
        assert now(model) == "eager"
    assert now(model) == "eager"


def test_enabling_within_a_call_stays_after_it(model):
    with attention_of_call(model, True):
        assert use_vecinfer_attention(model) == "eager"
    assert now(model) == "vecinfer"
    restore_attention(model, "eager")
    assert now(model) == "eager"


def test_disabling_within_a_call_waits_for_its_end(model):
    assert use_vecinfer_attention(model) == "eager"
    with attention_of_call(model, True):
        restore_attention(model, "eager")
        assert now(model) == "vecinfer"
        assert own_attention(model) == "eager"
    assert now(model) == "eager"


def test_codes_within_a_call_that_uses_none_are_refused(model):
    with attention_of_call(model, False):
        for ask in (lambda: attention_of_call(model, True).__enter__(), lambda: use_vecinfer_attention(model)):
            with pytest.raises(UnsupportedCallError, match=r"enable\(model\) before the outer call"):
                ask()
    assert now(model) == "eager"


def test_a_switch_waits_for_a_call_of_another_thread(model):
    """A call that began with eager attention sees it to its end."""
    seen, order = [], []
    begun, go_on = threading.Event(), threading.Event()

    def plain():
        with attention_of_call(model, False):
            begun.set()
            go_on.wait(20)
            seen.append(now(model))
            order.append("plain")

    def codes():
        with attention_of_call(model, True):
            order.append("codes")
            seen.append(now(model))

    threads = [threading.Thread(target=plain), threading.Thread(target=codes)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    assert now(model) == "eager"
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert seen == ["eager", "vecinfer"]
    assert order == ["plain", "codes"]
    assert now(model) == "eager"


def test_only_the_language_model_is_switched():
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": 97, **sizes},
        vision_config={"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, **sizes},
        image_token_id=5,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    model.set_attn_implementation("eager")
    with attention_of_call(model, True):
        found = [part._attn_implementation for part in (config, config.text_config, config.vision_config)]
    assert found == ["eager", "vecinfer", "eager"]
    assert config.text_config._attn_implementation == "eager"


OPTIONS = {"residual_length": 16, "ops_backend": "reference"}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_six_threads_on_one_model(attention, tmp_path):
    """Three calls with codes and three without, each repeated; every result is that of the call alone."""
    model = tiny_model("llama")
    model.set_attn_implementation(attention)
    random_codebook(model.config).save_pretrained(tmp_path)
    asks = {"cache_implementation": "vecinfer", "cache_config": {"codebook": str(tmp_path), **OPTIONS}}

    def run(seed):
        kwargs = asks if seed % 2 else {}
        return model.generate(tiny_inputs(1, 30 + seed, seed=seed), max_new_tokens=12, do_sample=False, **kwargs)

    wanted = [run(seed) for seed in range(6)]
    results = in_threads([lambda seed=seed: [run(seed) for _ in range(4)] for seed in range(6)])
    for seed in range(6):
        assert all(torch.equal(wanted[seed], found) for found in results[seed])
    assert now(model) == attention
    assert attention_switch._running == {}


def test_six_threads_on_several_models_that_are_enabled_and_disabled():
    models = [tiny_model("llama", seed=seed) for seed in range(3)]
    codebook = random_codebook(models[0].config)
    for model in models:
        model.set_attn_implementation("eager")

    def run(model, seed):
        return model.generate(tiny_inputs(1, 40, seed=seed), max_new_tokens=10, do_sample=False)

    stock = [[run(model, seed) for seed in range(2)] for model in models]
    coded = []
    for model in models:
        enable(model, codebook, **OPTIONS)
        coded.append([run(model, seed) for seed in range(2)])
        disable(model)

    def work(index, seed):
        found = []
        for _ in range(4):
            if seed == 0:
                enable(models[index], codebook, **OPTIONS)
            found.append(run(models[index], seed))
            if seed == 0:
                disable(models[index])
        return found

    jobs = [(index, seed) for index in range(3) for seed in range(2)]
    results = in_threads([lambda job=job: work(*job) for job in jobs])
    for (index, seed), found in zip(jobs, results, strict=True):
        for tokens in found:
            # The other thread may have enabled the model or not when this call began.
            allowed = [coded[index][seed]] + ([stock[index][seed]] if seed else [])
            assert any(torch.equal(tokens, one) for one in allowed)
    assert [now(model) for model in models] == ["eager"] * 3


def in_threads(jobs):
    """Run all jobs at once and return their results; an error in one is raised."""
    results, errors = [None] * len(jobs), []

    def work(index):
        try:
            results[index] = jobs[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    if errors:
        raise errors[0]
    return results
