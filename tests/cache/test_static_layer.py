# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The static cache: the same tokens as the dynamic one, one compiled graph, and nothing that grows or moves."""

import sys
from pathlib import Path

import pytest
import torch
import torch._dynamo.utils
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import CompileConfig

import vecinfer_hf
from vecinfer_hf import CacheStateError, VecInferCache, enable
from vecinfer_hf.integration.attention_switch import use_vecinfer_attention
from vecinfer_hf.integration.compat import cache_argument, returned_cache
from vecinfer_hf.ops import reference


WINDOW = 16
PACKAGE = Path(vecinfer_hf.__file__).parent
OPERATORS = Path(reference.__file__)
"""The torch operators stand for the kernels and may look at numbers; the rest of the package runs on the host."""


def padded_batch(rows: int = 2, length: int = 70) -> dict[str, torch.Tensor]:
    """Token ids and mask of a left-padded batch."""
    ids = tiny_inputs(rows, length)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def run(model, inputs, tokens=40, static=True, compiled=False, **kwargs):
    """Greedy tokens with a 2-bit cache of a window of 16; compiled: a step of one token is one graph, on the CPU."""
    if compiled:
        config = CompileConfig(backend="aot_eager", mode="default", fullgraph=True)
        config._compile_all_devices = True
        kwargs["compile_config"] = config
    cache_config = {"residual_length": WINDOW, "static": static, **kwargs.pop("cache_config", {})}
    return model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        cache_implementation="vecinfer",
        cache_config=cache_config,
        **kwargs,
    )


@pytest.fixture(params=["llama", "gemma2", "gpt_oss"])
def model(request):
    """A tiny model that carries a random codebook."""
    torch._dynamo.reset()
    model = tiny_model(request.param)
    enable(model, random_codebook(model.config))
    return model


def test_static_generates_what_dynamic_does(model):
    inputs = padded_batch()
    assert torch.equal(run(model, inputs), run(model, inputs, static=False))


def test_beams_reorder_a_static_cache_in_place(model):
    inputs = padded_batch()
    assert torch.equal(run(model, inputs, num_beams=3), run(model, inputs, num_beams=3, static=False))


def test_compiled_decode_is_one_graph_and_never_compiles_again():
    torch._dynamo.reset()
    model = tiny_model("llama")
    enable(model, random_codebook(model.config))
    torch._dynamo.utils.counters.clear()
    stats = torch._dynamo.utils.counters["stats"]

    def unpadded(length):
        return {"input_ids": tiny_inputs(2, length), "attention_mask": torch.ones(2, length, dtype=torch.long)}

    # Rows without padding need no mask, padded ones have one: a graph each.
    for inputs, graphs in ((unpadded(70), 1), (unpadded(33), 1), (padded_batch(), 2), (padded_batch(), 2)):
        assert torch.equal(run(model, inputs, compiled=True), run(model, inputs, static=False))
        assert stats["unique_graphs"] == graphs
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("chunk", [5, WINDOW, 24])
def test_chunked_prefill_of_a_padded_batch(chunk):
    torch._dynamo.reset()
    model = tiny_model("llama")
    enable(model, random_codebook(model.config))
    inputs = padded_batch()
    expected = run(model, inputs, static=False, prefill_chunk_size=chunk)
    assert torch.equal(run(model, inputs, prefill_chunk_size=chunk), expected)
    assert torch.equal(run(model, inputs, prefill_chunk_size=chunk, compiled=True), expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_prompt_lookup_may_guess_past_the_end_of_the_text(compiled):
    """The last guesses of a text that repeats itself go further than its last token."""
    torch._dynamo.reset()
    model = tiny_model("llama", num_hidden_layers=1)
    enable(model, random_codebook(model.config))
    ids = tiny_inputs(1, 6).repeat(1, 9)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options = {"prompt_lookup_num_tokens": 2, "tokens": 8}
    static = run(model, inputs, compiled=compiled, **options)
    assert torch.equal(static, run(model, inputs, static=False, **options))


def test_second_turn_on_a_static_cache():
    model = tiny_model("llama")
    codebook = random_codebook(model.config)
    results = []
    for options in ({"static": True, "max_cache_len": 200}, {}):
        cache = VecInferCache(model.config, codebook, residual_length=WINDOW, **options)
        inputs = padded_batch()
        first = model.generate(**inputs, max_new_tokens=20, do_sample=False, **cache_argument(cache))
        ids = torch.cat([first, tiny_inputs(2, 30, seed=5)], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, ids.shape[1] - 70, dtype=torch.long)], dim=1)
        results.append(
            model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False, **cache_argument(cache))
        )
    assert torch.equal(*results)


@pytest.mark.parametrize("static", [True, False])
def test_a_forward_looks_at_the_device_once_however_many_layers_there_are(static, monkeypatch):
    """Reading a number from the device waits for all its work: a prompt must not do so in every layer."""
    model = tiny_model("llama")
    codebook = random_codebook(model.config)
    options = {"static": True, "max_cache_len": 200} if static else {}
    cache = VecInferCache(model.config, codebook, residual_length=WINDOW, **options)
    assert len(cache.quantized_layers) > 1
    use_vecinfer_attention(model)
    ids, looks, operators = tiny_inputs(2, 160), [], []
    for name in ("tolist", "__int__", "item"):
        original = getattr(torch.Tensor, name)

        def counting(self, original=original):
            caller = Path(sys._getframe(1).f_code.co_filename)
            if caller == OPERATORS:
                operators.append(caller)
            elif PACKAGE in caller.parents:
                looks.append(caller)
            return original(self)

        monkeypatch.setattr(torch.Tensor, name, counting)
    with torch.no_grad():
        for start, end in ((0, 60), (60, 120), (120, 124), (124, 160)):  # a prompt, a chunk, a few tokens, a chunk
            looks.clear()
            arguments = {**cache_argument(cache), "cache_position": torch.arange(start, end)}
            model(ids[:, start:end], **arguments, use_cache=True)
            assert len(looks) == (1 if static and start else 0), (start, looks)
    assert operators  # the operators' looks are seen, so the package's would be
    for layer in cache.quantized_layers:
        assert layer.read_lengths()[1:] == ([160] * 2, [160 - WINDOW - codebook.config.sink_length] * 2)


def test_layers_out_of_order_do_not_take_old_lengths():
    """The first layer reads for those that come behind it in their order; all others read for themselves."""
    model = tiny_model("llama", num_hidden_layers=3)
    codebook = random_codebook(model.config)
    cache = VecInferCache(model.config, codebook, residual_length=WINDOW, static=True, max_cache_len=300)
    use_vecinfer_attention(model)
    heads, dim, _ = codebook.head_shape(0)

    def step(layer, tokens):
        each = cache.layers[layer]
        states = torch.randn(2, heads, tokens, dim)
        each.update(states, states)
        before = cache.forward_pass.lengths_before(each)
        each.store(states, states, before=before)
        return before.columns

    def compiled_step(layer, tokens):  # what a replayed graph does to a layer
        cache.layers[layer].cumulative_length.add_(tokens)
        cache.layers[layer].buffers.lengths.add_(tokens)

    for _ in range(2):
        assert [step(0, 50), step(1, 50), step(1, 10), step(2, 50)] == [0, 0, 50, 0]
        assert [step(0, 5), step(1, 5), step(2, 5)] == [50, 60, 50]  # a pass that was not whole came before
        cache.reset()
        assert [step(layer, 50) for layer in (0, 1, 2)] == [0, 0, 0]
        assert [step(layer, 30) for layer in (0, 1, 2)] == [50, 50, 50]
        compiled_step(0, 1)
        compiled_step(1, 1)
        assert step(2, 1) == 80
        assert [step(1, 2), step(2, 2), step(0, 2), step(1, 2), step(2, 2)] == [81, 81, 81, 83, 83]
        cache.reset()


@pytest.mark.parametrize("static", [True, False])
def test_a_pass_that_ended_midway_is_noticed_and_a_crop_repairs_it(static):
    model = tiny_model("llama", num_hidden_layers=3)
    options = {"static": True, "max_cache_len": 300} if static else {}
    cache, other = (
        VecInferCache(model.config, random_codebook(model.config), residual_length=WINDOW, **options) for _ in range(2)
    )
    use_vecinfer_attention(model)
    ids, fails = tiny_inputs(1, 90), [True]

    def out_of_memory(*_):
        if fails and fails.pop():
            raise torch.OutOfMemoryError("none left")

    with torch.no_grad():
        for each in (cache, other):
            model(ids[:, :60], **cache_argument(each))
        model.model.layers[1].mlp.register_forward_hook(out_of_memory)
        # Few enough for the window to hold what it held: a crop then leaves no trace.
        with pytest.raises(torch.OutOfMemoryError):
            model(ids[:, 60:61], **cache_argument(cache))
        assert [layer.read_lengths().tokens for layer in cache.layers] == [[61], [61], [60]]
        with pytest.raises(CacheStateError, match=r"60 to 61 columns.*crop\(-1\)"):
            model(ids[:, 61:62], **cache_argument(cache))
        cache.crop(-1)
        assert [layer.read_lengths().tokens for layer in cache.layers] == [[60]] * 3
        assert [int(layer.get_seq_length()) for layer in cache.layers] == [60] * 3
        model(ids[:, 60:], **cache_argument(cache))
    assert [layer.read_lengths().tokens for layer in cache.layers] == [[90]] * 3


def test_layers_that_are_compiled_beside_layers_that_are_not():
    """A graph break within the layers compiles each apart, until torch has had enough and leaves the rest alone."""
    torch._dynamo.reset()
    model = tiny_model("llama", num_hidden_layers=12)
    enable(model, random_codebook(model.config))
    inputs = {"input_ids": tiny_inputs(1, 70), "attention_mask": torch.ones(1, 70, dtype=torch.long)}
    expected = run(model, inputs, tokens=12)
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda module, args, output: (torch._dynamo.graph_break(), output)[1])
    config = CompileConfig(backend="aot_eager", mode="default", fullgraph=False)
    config._compile_all_devices = True
    assert torch.equal(run(model, inputs, tokens=12, compile_config=config), expected)


def test_crop_reset_and_addresses():
    model = tiny_model("llama")
    cache = VecInferCache(
        model.config, random_codebook(model.config), residual_length=WINDOW, static=True, max_cache_len=128
    )
    model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(1, 60)
    with torch.no_grad():
        model(ids, **cache_argument(cache))
        addresses = [tensor.data_ptr() for layer in cache.layers for tensor in layer.buffers]
        expected = model(tiny_inputs(1, 1, seed=3), **cache_argument(cache)).logits
        cache.crop(-1)
        # The token that left the window stays coded, so the window is one shorter: close, not equal.
        again = model(tiny_inputs(1, 1, seed=3), **cache_argument(cache)).logits
        cache.reset()
        assert int(cache.get_seq_length()) == 0
        model(ids, **cache_argument(cache))
        fresh = model(tiny_inputs(1, 1, seed=3), **cache_argument(cache)).logits
    assert torch.equal(fresh, expected)
    assert again.shape == expected.shape
    assert [tensor.data_ptr() for layer in cache.layers for tensor in layer.buffers] == addresses


def test_overflow_says_what_to_do():
    model = tiny_model("llama")
    cache = VecInferCache(model.config, random_codebook(model.config), static=True, max_cache_len=50)
    with pytest.raises(ValueError, match="60 tokens do not fit the static cache of max_cache_len 50"):
        model.generate(tiny_inputs(1, 60), max_new_tokens=2, **cache_argument(cache))


def test_a_static_cache_keeps_its_batch():
    model = tiny_model("llama")
    cache = VecInferCache(model.config, random_codebook(model.config), static=True, max_cache_len=50)
    model.generate(tiny_inputs(2, 20), max_new_tokens=2, **cache_argument(cache))
    with pytest.raises(ValueError, match="2 rows cannot become one of 1"):
        cache.batch_select_indices(torch.tensor([0]))
    with pytest.raises(ValueError, match="cannot change its number of rows"):
        cache.batch_repeat_interleave(2)


def test_size_is_required_by_hand_and_refused_when_wrong():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="needs max_cache_len"):
        VecInferCache(model.config, random_codebook(model.config), static=True)
    with pytest.raises(ValueError, match="max_cache_len is 0"):
        VecInferCache(model.config, random_codebook(model.config), static=True, max_cache_len=0)


def test_one_token_prefill_chunks_are_refused():
    model = tiny_model("llama")
    enable(model, random_codebook(model.config))
    with pytest.raises(ValueError, match="use at least 2"):
        run(model, padded_batch(), prefill_chunk_size=1)


def test_max_cache_len_never_shrinks_between_calls():
    model = tiny_model("llama")
    enable(model, random_codebook(model.config))
    outputs = [
        run(model, {"input_ids": tiny_inputs(1, length)}, tokens=5, return_dict_in_generate=True)
        for length in (60, 20)
    ]
    sizes = [returned_cache(output).layers[0].max_cache_len for output in outputs]
    assert sizes[0] == sizes[1] >= 64
