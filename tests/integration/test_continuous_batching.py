# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Continuous batching of transformers on codes: who gets it, what is refused, and that nothing else changes."""

import copy
import time

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import CompileConfig, ContinuousBatchingConfig, GenerationConfig

from vecinfer_hf import ConfigError, UnsupportedCallError, VecInferConfig, disable, enable, enabled
from vecinfer_hf.integration import continuous_batching
from vecinfer_hf.integration.continuous_batching import CACHED, why_unsupported


pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason=f"{why_unsupported()}")
SMALL = {"page_size": 32, "num_blocks": 60, "max_batch_tokens": 64, "max_requests_per_batch": 8}


def generation_config(tokens=12, **changes):
    fixed = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0, **changes}
    return GenerationConfig(max_new_tokens=tokens, **fixed)


def prompts(*lengths):
    return [tiny_inputs(1, length, seed=length)[0].tolist() for length in lengths]


def answers(model, inputs, tokens=12, config=None, **changes):
    """The generated tokens of each request."""
    outputs = model.generate_batch(
        inputs,
        generation_config=generation_config(tokens, **changes),
        continuous_batching_config=ContinuousBatchingConfig(**(config or SMALL)),
    )
    assert all(output.error is None for output in outputs.values())
    return [output.generated_tokens for output in outputs.values()]


def coded_model(family="llama", seed=0, **options):
    model = tiny_model(family, seed=seed)
    options = {"residual_length": 0, "ops_backend": "reference", **options}
    return enable(model, random_codebook(model.config, seed=seed), **options)


def coded_manager(model, config=None, **changes):
    return model.init_continuous_batching(generation_config(**changes), ContinuousBatchingConfig(**(config or SMALL)))


def test_only_an_enabled_model_holds_codes_and_disable_leaves_no_trace():
    inputs = prompts(5, 40, 90)
    plain, model = tiny_model("llama"), tiny_model("llama")
    before = answers(plain, inputs), set(vars(model)), model.config._attn_implementation
    enable(model, random_codebook(model.config), residual_length=0, ops_backend="reference")
    coded = answers(model, inputs)
    assert coded != before[0], "codes change some token of a random model"
    assert coded[0] == before[0][0], "a text within a page is exact"
    assert answers(plain, inputs) == before[0]
    manager = coded_manager(model)
    assert type(manager._create_batch_processor().cache).__name__ == "VecInferPagedCache"
    assert type(plain.init_continuous_batching(generation_config())).__name__ == "ContinuousBatchingManager"
    disable(model)
    assert (answers(model, inputs), set(vars(model)), model.config._attn_implementation) == before


def test_codes_are_asked_for_by_a_generation_config_or_for_one_block(tmp_path):
    inputs = prompts(70)
    model = tiny_model("llama")
    codebook = random_codebook(model.config)
    codebook.save_pretrained(tmp_path)
    plain = answers(model, inputs, 30)
    config = VecInferConfig(str(tmp_path), residual_length=0, ops_backend="reference")
    coded = answers(model, inputs, 30, cache_config=config)
    assert coded != plain
    assert model.config._attn_implementation != "vecinfer"
    with enabled(model, codebook, residual_length=0, ops_backend="reference"):
        assert answers(model, inputs, 30) == coded
    assert answers(model, inputs, 30) == plain


def test_two_models_run_at_once():
    models = [coded_model(seed=seed) for seed in (0, 1)] + [tiny_model("qwen3")]
    inputs = prompts(40, 80)
    alone = [answers(model, inputs) for model in models]
    managers = []
    for model in models:
        manager = model.init_continuous_batching(generation_config(), ContinuousBatchingConfig(**SMALL))
        manager.start()
        managers.append((manager, manager.add_requests(inputs, max_new_tokens=12)))
    for (manager, names), expected in zip(managers, alone, strict=True):
        found = {}
        while len(found) < len(names):
            result = manager.get_result(timeout=20)
            found[result.request_id] = result.generated_tokens
        manager.stop(block=True)
        assert [found[name] for name in names] == expected


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_several_samples_of_a_prompt_are_forks(family):
    model = coded_model(family)
    config = {**SMALL, "num_blocks": 200}
    # A prompt of one token is forked before it is read.
    for length in (45, 1):
        one = answers(model, prompts(length), 30, config)
        # transformers refuses several greedy samples; the likeliest of one candidate is the same.
        three = answers(model, prompts(length), 30, config, do_sample=True, top_k=1, num_return_sequences=3)
        assert three == one * 3


def test_streaming_and_cancelling_leave_others_alone():
    model, inputs = coded_model(), prompts(33, 60, 35)
    expected = answers(model, inputs, 40)
    manager = coded_manager(model, tokens=40)
    manager.start()
    streamed = {}
    try:
        names = [manager.add_request(text, max_new_tokens=40, streaming=True) for text in inputs]
        while sum(len(tokens) == 40 for tokens in streamed.values()) < 2:
            result = manager.get_result(timeout=20)
            assert result is not None
            streamed.setdefault(result.request_id, []).append(result.generated_tokens[-1])
            if result.request_id == names[1] and len(streamed[names[1]]) == 3:
                manager.cancel_request(names[1])
        deadline = time.monotonic() + 20
        while manager.cache.codes.slots and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not manager.cache.codes.slots, "the blocks of a cancelled request are given back"
    finally:
        manager.stop(block=True)
    assert streamed[names[0]] == expected[0]
    assert streamed[names[2]] == expected[2]
    assert streamed[names[1]] == expected[1][: len(streamed[names[1]])]
    assert 3 <= len(streamed[names[1]]) < 40


def test_a_manager_is_kept_for_the_next_session_until_disable():
    model, inputs = coded_model(), prompts(40, 70)
    expected = answers(model, inputs)
    options = {
        "generation_config": generation_config(),
        "continuous_batching_config": ContinuousBatchingConfig(**SMALL),
    }
    for _ in range(2):
        outputs = model.generate_batch(inputs, persistent_manager=True, **options)
        assert [output.generated_tokens for output in outputs.values()] == expected
    kept = getattr(model, CACHED)
    assert model.init_continuous_batching() is kept
    enable(model, random_codebook(model.config, seed=5), ops_backend="reference")
    assert model.init_continuous_batching(**options) is not kept
    disable(model)
    assert not hasattr(model, CACHED)
    model.generate_batch(inputs, persistent_manager=True, **options)
    enable(model, random_codebook(model.config), ops_backend="reference")
    with pytest.raises(UnsupportedCallError, match="destroy_cached_continuous_batching_manager"):
        model.init_continuous_batching()


REFUSED = {
    "use_cuda_graph": True,
    "use_async_batching": True,
    "varlen_compile_config": CompileConfig(),
    "decode_compile_config": CompileConfig(),
    "default_compile_level": 1,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_codes_do_not_have_is_refused_by_name(name):
    model = coded_model()
    with pytest.raises(UnsupportedCallError, match=f"{name}=.*disable"):
        coded_manager(model, {**SMALL, name: REFUSED[name]})
    assert model.config._attn_implementation == "vecinfer"


def test_offload_beside_sliding_layers_online_codebooks_and_beams_are_refused():
    with pytest.raises(UnsupportedCallError, match="cpu_offload_space=1.0.*sliding"):
        coded_manager(coded_model("gemma2"), {**SMALL, "cpu_offload_space": 1.0})
    with pytest.raises(ConfigError, match=r"online.*vecinfer calibrate"):
        coded_manager(enable(tiny_model("llama"), "online"))
    with pytest.raises(ConfigError, match="num_beams is 2"):
        coded_manager(coded_model(), num_beams=2)


@pytest.mark.parametrize("size", [16, 40, 4])
def test_a_page_is_made_of_tiles(size):
    with pytest.raises(ConfigError, match=f"page_size is {size}.*multiple of 32"):
        coded_manager(coded_model(), {**SMALL, "page_size": size})


def test_sinks_are_chosen_from_the_first_page():
    with pytest.raises(ConfigError, match="sink_length is 32.*first page"):
        coded_manager(coded_model(sink_length=32))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("version", ["5.17.0", "5.23.1", "5.25.0", "6.0.0"])
def test_other_versions_of_transformers_are_refused_with_the_tested_one(version, monkeypatch):
    model = coded_model()
    monkeypatch.setattr(continuous_batching, "VERSION", version)
    with pytest.raises(UnsupportedCallError, match=rf"{version} is installed.*tested with 5\.24 only.*disable"):
        coded_manager(model)


def test_a_name_that_has_moved_is_told(monkeypatch):
    names = copy.deepcopy(continuous_batching._NAMES)
    names["cache"]["PagedAttentionCache.gone"] = ("self",)
    monkeypatch.setattr(continuous_batching, "_NAMES", names)
    with pytest.raises(UnsupportedCallError, match=r"has no cache\.PagedAttentionCache\.gone"):
        coded_manager(coded_model())


def test_a_request_that_is_too_long_fails_alone():
    model = coded_model()
    inputs = prompts(40, 400, 50)
    expected = answers(model, [inputs[0], inputs[2]])
    config = ContinuousBatchingConfig(**{**SMALL, "num_blocks": 10})
    outputs = model.generate_batch(inputs, generation_config(), config)
    first, long, last = outputs.values()
    assert "400 tokens with 12 new ones does not fit: the cache has 10 pages of 32 tokens" in long.error
    assert long.generated_tokens == []
    assert [first.generated_tokens, last.generated_tokens] == expected
    manager = model.init_continuous_batching(generation_config(), config)
    manager.warmup()
    with pytest.raises(UnsupportedCallError, match="room for 256 tokens of one request"):
        manager.add_request(inputs[1])
    with pytest.raises(UnsupportedCallError, match="without tokens"):
        manager.add_request([])


def test_a_request_without_a_limit_ends_with_the_memory():
    model = coded_model()
    outputs = model.generate_batch(
        prompts(40), generation_config(None), ContinuousBatchingConfig(**{**SMALL, "num_blocks": 8})
    )
    (output,) = outputs.values()
    assert output.error is None
    assert len(output.generated_tokens) == 8 * 32 - 2 * 32 - 40 + 1


def test_too_little_memory_is_told_before_anything_runs(monkeypatch):
    from vecinfer_hf.integration.paged_memory import PagedMemory

    monkeypatch.setattr(PagedMemory, "get_available_memory", lambda self: 100_000)
    with pytest.raises(ConfigError, match=r"0 MiB are available.*too little.*num_blocks"):
        coded_manager(coded_model())._create_batch_processor()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("bits", [2, 1, 4, "d8b12"])
def test_memory_is_what_is_said(bits):
    """Blocks, exact tokens and layers add up to what is allocated, and tokens take the bytes of their format."""
    model = tiny_model("llama", dtype=torch.bfloat16)
    codebook = random_codebook(model.config, bits, bits)
    enable(model, codebook, ops_backend="reference")
    manager = coded_manager(model)
    cache = manager._create_batch_processor().cache
    exact = [
        each for layer in cache.layers.values() for each in (layer.storage.exact_keys, layer.storage.exact_values)
    ]
    storage = cache.cache_tensor.untyped_storage().nbytes() + sum(each.untyped_storage().nbytes() for each in exact)
    assert cache.nbytes == storage
    assert sum(each.nbytes for each in exact) == cache.num_slots * manager.layout.tail_bytes
    tokens = 32 * codebook.bytes_per_token
    assert tokens <= manager.layout.bytes_per_block < tokens + len(codebook.layers) * 128
    assert cache.num_blocks >= SMALL["num_blocks"]


def test_layers_may_have_different_formats():
    model = tiny_model("llama")
    codebook = random_codebook(model.config, layer_bits=[[2, 1], [4, 4]])
    enable(model, codebook, ops_backend="reference")
    layout = coded_manager(model).layout
    assert layout.layer_bytes[1] > layout.layer_bytes[0]
    assert layout.wasted_bytes < 3 * 128
    assert len(answers(model, prompts(70))[0]) == 12


@pytest.mark.parametrize(("window", "pages"), [(None, 4), (0, 0), (33, 2)])
def test_the_window_that_was_asked_for_is_exact_in_whole_pages(window, pages):
    options = {} if window is None else {"residual_length": window}
    model = enable(tiny_model("llama"), random_codebook(tiny_model("llama").config), **options)
    rule = coded_manager(model).layout.rule
    assert (rule.page_tokens, rule.exact_pages, rule.share_tokens) == (32, pages, 1024)
