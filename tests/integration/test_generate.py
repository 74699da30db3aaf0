# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""generate, in every mode and for every family, against the default cache."""

import copy
import logging

import pytest
import torch
from tiny_generate import LONG, SHORT, greedy, padded_batch, with_vecinfer
from tiny_models import FAMILIES, tiny_inputs, tiny_model
from transformers.cache_utils import DynamicCache

from vecinfer_hf import VecInferCache
from vecinfer_hf.integration.compat import cache_argument, returned_cache


MODES = {
    "greedy": ({"input_ids": tiny_inputs(1, 30)}, {}),
    "left-padded batch": (padded_batch(), {}),
    "beams": ({"input_ids": tiny_inputs(1, 30)}, {"num_beams": 3}),
    "beams of a padded batch": (padded_batch(), {"num_beams": 3, "num_return_sequences": 2}),
    "beam sampling": (padded_batch(), {"num_beams": 2, "do_sample": True}),
    "sampling": (padded_batch(), {"do_sample": True, "num_return_sequences": 3}),
    "prompt lookup": ({"input_ids": tiny_inputs(1, 6).repeat(1, 5)}, {"prompt_lookup_num_tokens": 4}),
    "chunked prefill": ({"input_ids": tiny_inputs(2, 30)}, {"prefill_chunk_size": 7}),
    "chunked prefill of a padded batch": (padded_batch(), {"prefill_chunk_size": 7}),
    "scores": (
        {"input_ids": tiny_inputs(1, 30)},
        {"return_dict_in_generate": True, "output_scores": True, "repetition_penalty": 1.3},
    ),
    "one token prompt": ({"input_ids": tiny_inputs(2, 1)}, {}),
}


@pytest.mark.parametrize("mode", MODES)
def test_with_codes_off_every_mode_gives_the_stock_tokens(mode, codebooks):
    model = tiny_model("llama")
    inputs, kwargs = MODES[mode]
    kwargs = {"max_new_tokens": 30, "do_sample": False, **kwargs}
    torch.manual_seed(3)
    stock = model.generate(**inputs, **kwargs)
    torch.manual_seed(3)
    ours = model.generate(**inputs, **kwargs, **with_vecinfer(codebooks(model), LONG))
    if mode == "scores":
        assert isinstance(returned_cache(ours), VecInferCache)
        stock, ours = stock.sequences, ours.sequences
    assert torch.equal(stock, ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_codes_off_every_family_gives_the_stock_tokens(family, codebooks):
    model = tiny_model(family)
    for inputs in (MODES["greedy"][0], padded_batch()):
        stock = greedy(model, **inputs)
        assert torch.equal(stock, greedy(model, **inputs, **with_vecinfer(codebooks(model), LONG)))


@pytest.mark.parametrize("family", FAMILIES)
def test_at_two_bits_a_padded_row_generates_what_the_row_alone_does(family, codebooks):
    model = tiny_model(family)
    batch = padded_batch(60, (0, 7, 41))
    together = greedy(model, 100, **batch, **with_vecinfer(codebooks(model), SHORT))
    for row in range(3):
        real = batch["attention_mask"][row].bool()
        alone = greedy(
            model, 100, input_ids=batch["input_ids"][row : row + 1, real], **with_vecinfer(codebooks(model), SHORT)
        )
        assert torch.equal(alone[0, real.sum() :], together[row, 60:]), f"row {row}"


def test_codes_are_really_used(codebooks):
    """What the other tests switch off makes a difference when it is on."""
    model = tiny_model("llama")
    ids = tiny_inputs(1, 60)
    output = greedy(model, 60, input_ids=ids, return_dict_in_generate=True, **with_vecinfer(codebooks(model), SHORT))
    assert not torch.equal(greedy(model, 60, input_ids=ids), output.sequences)
    # 60 + 60 - 1 tokens, of which 4 sinks and 16 recent ones are exact.
    assert returned_cache(output).layers[0].read_lengths().quantized == [119 - 20]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_on_codes_and_is_repeatable(mode, codebooks):
    model = tiny_model("llama")
    inputs, kwargs = MODES[mode]
    kwargs = {"max_new_tokens": 40, "do_sample": False, **kwargs, **with_vecinfer(codebooks(model), SHORT)}
    kwargs.pop("return_dict_in_generate", None), kwargs.pop("output_scores", None)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(model.generate(**inputs, **kwargs))
    assert torch.equal(*results)


def test_a_beam_of_one_idea_is_greedy_on_codes(codebooks):
    """Rows repeated by beam search start with codes that are those of the row alone."""
    model = tiny_model("llama")
    ids = tiny_inputs(1, 60)
    cache = VecInferCache(model.config, codebooks(model), **SHORT)
    output = greedy(model, 20, input_ids=ids, num_beams=3, **cache_argument(cache))
    assert output.shape == (1, 80)
    layer = cache.layers[0]
    alone = VecInferCache(model.config, codebooks(model), **SHORT)
    model.set_attn_implementation("vecinfer")
    with torch.no_grad():
        model(ids, **cache_argument(alone))
    # The 40 tokens coded in the prefill are the first 32-token tile of all three rows, untouched by reordering.
    assert all(torch.equal(alone.layers[0].buffers.codes[0, :, 0], row[:, 0]) for row in layer.buffers.codes)


def test_second_turn_on_the_same_cache(codebooks):
    model = tiny_model("llama")
    results = []
    for options in (None, LONG, SHORT):
        cache = DynamicCache(config=model.config)
        if options:
            cache = VecInferCache(model.config, codebooks(model), **options)
        first = greedy(model, 30, input_ids=tiny_inputs(1, 40), **cache_argument(cache))
        assert cache.get_seq_length() == 69
        # Without a mask generate would take a generated token 0 for padding.
        ids = torch.cat([first, tiny_inputs(1, 25, seed=9)], 1)
        second = greedy(model, 30, input_ids=ids, attention_mask=torch.ones_like(ids), **cache_argument(cache))
        assert cache.get_seq_length() == 70 + 25 + 29
        results.append(second)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_second_turn_of_a_padded_batch(codebooks):
    """The second turn brings the grown mask; each row equals the row alone, at two bits."""
    model = tiny_model("llama")
    batch = padded_batch(40, (0, 13))

    def two_turns(ids, mask, more):
        cache = VecInferCache(model.config, codebooks(model), **SHORT)
        first = greedy(model, 20, input_ids=ids, attention_mask=mask, **cache_argument(cache))
        ids = torch.cat([first, more], 1)
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
        return greedy(model, 20, input_ids=ids, attention_mask=mask, **cache_argument(cache))

    more = tiny_inputs(2, 21, seed=4)
    together = two_turns(batch["input_ids"], batch["attention_mask"], more)
    for row, padding in enumerate((0, 13)):
        alone = two_turns(
            batch["input_ids"][row : row + 1, padding:], torch.ones(1, 40 - padding, dtype=torch.long),
            more[row : row + 1],
        )  # fmt: skip
        assert torch.equal(alone[0], together[row, padding:])


@pytest.mark.parametrize("options", [LONG, SHORT], ids=["long", "short"])
def test_a_prefix_is_cached_by_deepcopy(options, codebooks):
    model = tiny_model("llama")
    prefix = tiny_inputs(1, 50)
    cache = VecInferCache(model.config, codebooks(model), **options)
    model.set_attn_implementation("vecinfer")
    with torch.no_grad():
        model(prefix, **cache_argument(cache))
    before = [tensor.clone() for tensor in cache.layers[1].buffers]
    for seed in (1, 2):
        ids = torch.cat([prefix, tiny_inputs(1, 30, seed=seed)], 1)
        continued = greedy(model, input_ids=ids, **cache_argument(copy.deepcopy(cache)))
        if options is LONG:
            assert torch.equal(continued, greedy(model, input_ids=ids))
        else:
            fresh = VecInferCache(model.config, codebooks(model), **options)
            with torch.no_grad():
                model(prefix, **cache_argument(fresh))
            assert torch.equal(continued, greedy(model, input_ids=ids, **cache_argument(fresh)))
    assert all(torch.equal(old, new) for old, new in zip(before, cache.layers[1].buffers, strict=True))


@pytest.fixture
def _own_deprecations(monkeypatch):
    """Assisted generation of transformers calls generate in a way that it deprecates itself."""
    monkeypatch.setattr(logging.getLogger("transformers.generation.utils"), "disabled", True)


@pytest.mark.usefixtures("_own_deprecations")
@pytest.mark.parametrize("form", ["explicit", "backend"])
def test_assisted_generation(form, codebooks):
    model, assistant = tiny_model("llama"), tiny_model("llama", seed=1)
    stock = greedy(model, input_ids=tiny_inputs(1, 30), assistant_model=assistant)
    kwargs = with_vecinfer(codebooks(model), LONG)
    if form == "backend":
        kwargs = {"cache_config": {"backend": "vecinfer", **kwargs["cache_config"]}}
    assert torch.equal(stock, greedy(model, input_ids=tiny_inputs(1, 30), assistant_model=assistant, **kwargs))


@pytest.mark.usefixtures("_own_deprecations")
def test_assisted_generation_of_an_agreeing_assistant_on_codes(codebooks):
    """Accepted candidates: a copy of the model as its assistant, over short windows, gives some text and no error."""
    model = tiny_model("llama")
    output = greedy(
        model, 40, input_ids=tiny_inputs(1, 60), assistant_model=copy.deepcopy(model),
        **with_vecinfer(codebooks(model), SHORT),
    )  # fmt: skip
    assert output.shape == (1, 100)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_low_precision_models_generate(family, dtype, codebooks):
    model = tiny_model(family, dtype=dtype)
    output = greedy(
        model, 40, **padded_batch(), return_dict_in_generate=True, **with_vecinfer(codebooks(model), SHORT)
    )
    layer = returned_cache(output).quantized_layers[0]
    assert layer.buffers.ring_keys.dtype == dtype
    assert output.sequences.shape == (3, 70)
