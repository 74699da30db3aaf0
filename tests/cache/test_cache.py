# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""cache.py: the whole cache against a stock DynamicCache, its true size, and what it refuses."""

import copy
import gc
import weakref

import pytest
import torch
import transformers
from filling import put_into
from tiny_codebooks import random_codebook
from tiny_models import FAMILIES, tiny_config, tiny_inputs, tiny_model
from transformers.cache_utils import DynamicCache, QuantizedCache

from vecinfer_hf import CodebookError, VecInferCache
from vecinfer_hf.cache.layer import VecInferLayer
from vecinfer_hf.cache.make_layers import logger
from vecinfer_hf.integration.compat import cache_argument


def make_cache(family="llama", residual_length=128, sink_length=4, bits=2, **overrides):
    config = tiny_config(family, **overrides)
    return VecInferCache(
        config,
        random_codebook(config, bits, bits),
        residual_length=residual_length,
        sink_length=sink_length,
        ops_backend="reference",
    )


def feed(caches, batch, pieces, layers=2, dtype=torch.float32):
    """Give all caches the same random states."""
    for tokens in pieces:
        for index in range(layers):
            states = torch.randn(2, batch, 2, tokens, 16).to(dtype)
            for cache in caches:
                put_into(cache, *states, index)


def assert_same(cache, stock):
    for ours, theirs in zip(cache.layers, stock.layers, strict=True):
        if isinstance(ours, VecInferLayer):
            keys, values = ours.read(ours.get_seq_length())
        else:
            keys, values = ours.keys, ours.values
        assert torch.equal(keys, theirs.keys)
        assert torch.equal(values, theirs.values)
    assert cache.get_seq_length() == stock.get_seq_length()
    assert cache.get_mask_sizes(3, 0) == stock.get_mask_sizes(3, 0)
    assert len(cache) == len(stock)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_with_full_attention_and_no_others_hold_codes(family):
    cache = make_cache(family)
    stock = DynamicCache(config=tiny_config(family))
    assert isinstance(cache, QuantizedCache)
    assert len(cache.layers) == len(stock.layers) == 2
    for ours, theirs in zip(cache.layers, stock.layers, strict=True):
        if theirs.is_sliding:
            assert type(ours) is type(theirs)
        else:
            assert type(ours) is VecInferLayer
    assert cache.is_compileable is False


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("step", range(8))
def test_every_operation_equals_the_stock_cache(family, step):
    if family == "gemma3" and step == 5 and transformers.__version__.startswith("5.17."):
        pytest.skip("the stock sliding layers of transformers 5.17 keep their rows after a reset")
    cache, stock = make_cache(family), DynamicCache(config=tiny_config(family))
    feed([cache, stock], 3, [20, 1])
    operations = [
        lambda each: each.reorder_cache(torch.tensor([2, 2, 0])),
        lambda each: each.batch_select_indices(torch.tensor([1, 0])),
        lambda each: each.batch_repeat_interleave(2),
        lambda each: each.crop(-5),
        lambda each: each.crop(0),
        lambda each: each.reset(),
        lambda each: None,
        lambda each: (each.crop(-2), each.batch_repeat_interleave(2), each.reorder_cache(torch.arange(5, -1, -1))),
    ]
    for each in (cache, stock):
        operations[step](each)
    if step == 5:
        assert cache.get_seq_length() == 0
        # Stock layers keep zeroed tensors after a reset; only what comes later can be compared.
        stock = DynamicCache(config=tiny_config(family))
        feed([cache, stock], 2, [9])
    batch = cache.layers[1].read(1)[0].shape[0]
    assert_same(cache, stock)
    feed([cache, stock], batch, [2, 1])
    assert_same(cache, stock)


@pytest.mark.parametrize("residual", [8, 128])
def test_deepcopy_is_independent_and_shares_the_codebook(residual):
    cache = make_cache(residual_length=residual)
    feed([cache], 2, [40])
    copied = copy.deepcopy(cache)
    assert copied.codebook is cache.codebook
    assert copied.forward_pass is not cache.forward_pass
    assert all(layer.forward_pass is copied.forward_pass for layer in copied.layers)
    before = [layer.read(40)[0] for layer in cache.layers]
    torch.manual_seed(1)
    feed([copied], 2, [1, 30])
    assert all(torch.equal(old, layer.read(40)[0]) for old, layer in zip(before, cache.layers, strict=True))
    torch.manual_seed(1)
    feed([cache], 2, [1, 30])
    for ours, theirs in zip(cache.layers, copied.layers, strict=True):
        for first, second in zip(ours.buffers, theirs.buffers, strict=True):
            assert first is second is None or torch.equal(first, second)


def cached_tensors(root):
    """Every tensor reachable from `root` through attributes, containers and closures, but not through modules."""
    seen, todo, found = set(), [root], []
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (type, type(torch), torch.nn.Module, transformers.PreTrainedConfig)):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found.append(item)
        else:
            todo.extend(gc.get_referents(item))
    return found


def allocated_bytes(cache):
    storages = {}
    for tensor in cached_tensors(vars(cache)):
        storages[tensor.untyped_storage().data_ptr(), tensor.device] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("bits", [4, 2, 1.5, 1])
def test_nbytes_equals_every_byte_that_is_reachable(bits):
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    codebook = random_codebook(model.config, bits, bits)
    cache = VecInferCache(model.config, codebook, residual_length=16, ops_backend="reference")
    with torch.no_grad():
        output = model(tiny_inputs(2, 70), **cache_argument(cache))
        for _ in range(3):
            output = model(output.logits[:, -1:].argmax(-1), **cache_argument(cache))
    del output
    assert cache.nbytes == allocated_bytes(cache)
    # The walk does see a hidden copy.
    cache.layers[0].secret = [{"kept": torch.zeros(7)}]
    assert allocated_bytes(cache) == cache.nbytes + 28


def test_nothing_keeps_the_prompts_keys_or_values_alive(monkeypatch):
    """Neither the tensors given to update nor any view of their storage outlive the forward pass."""
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    cache = VecInferCache(model.config, random_codebook(model.config), residual_length=16, ops_backend="reference")
    given, storages = [], set()
    update = VecInferCache.update

    def watched(self, keys, values, *args, **kwargs):
        for tensor in (keys, values):
            given.append(weakref.ref(tensor))
            storages.add(tensor.untyped_storage().data_ptr())
        return update(self, keys, values, *args, **kwargs)

    monkeypatch.setattr(VecInferCache, "update", watched)
    with torch.no_grad():
        model(tiny_inputs(1, 70), **cache_argument(cache))
    gc.collect()
    assert len(given) == 4
    assert not any(reference() is not None for reference in given)
    sizes = [tensor.untyped_storage().nbytes() for tensor in cached_tensors(vars(cache))]
    # The prompt's keys of one layer in float32; nothing that large is left.
    assert max(sizes) < 70 * 2 * 16 * 4


@pytest.mark.parametrize("tokens", [4096, 5000])
def test_two_bits_take_a_fifth_of_the_stock_cache_at_4096_tokens(tokens):
    """SmolLM2's shapes (30 layers, 3 heads of 64, one layer stands for all) in bfloat16, everything counted."""
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=576, num_hidden_layers=1, num_attention_heads=9, num_key_value_heads=3, head_dim=64
    )
    cache = VecInferCache(config, random_codebook(config), ops_backend="reference")
    states = torch.randn(2, 1, 3, tokens, 64).to(torch.bfloat16)
    put_into(cache, *states, 0)
    stock = 2 * 3 * 64 * 2 * tokens
    assert cache.stock_nbytes() == cache.stock_nbytes(torch.bfloat16) == stock
    assert cache.stock_nbytes(torch.float32) == 2 * stock
    assert cache.nbytes == allocated_bytes(cache)
    assert cache.nbytes <= 0.20 * stock
    assert cache.compression_ratio == stock / cache.nbytes
    # Appending a few tokens grows a buffer by an eighth at most: still below.
    put_into(cache, *states[:, :, :, :1], 0)
    assert cache.nbytes <= 0.20 * stock


@pytest.mark.parametrize(("bits", "true"), [(4, 4), (2, 2), (1.5, 1.5), (1, 1)])
def test_bits_per_element_is_the_true_one(bits, true):
    assert make_cache(bits=bits, head_dim=64).bits_per_element == true


def test_bits_per_element_counts_padding():
    """At head size 16, d8 has 2 sub-vectors: keys store 4 places, values 8, so (4 + 8) / (2 + 2) = 3 times 1 bit."""
    assert make_cache(bits=1).bits_per_element == 3


def test_stock_layers_are_counted_too():
    cache, stock = make_cache("gemma3"), DynamicCache(config=tiny_config("gemma3"))
    feed([cache, stock], 2, [10])
    sliding = stock.layers[0].keys.nbytes + stock.layers[0].values.nbytes
    # The stock sliding layer holds small tensors beside keys and values; they are counted wherever they are.
    extra = allocated_bytes(stock.layers[0]) - sliding
    assert cache.nbytes == allocated_bytes(cache) == cache.layers[1].nbytes + sliding + extra
    assert cache.stock_nbytes() == 2 * sliding + extra


def test_lengths_default_to_the_codebooks():
    config = tiny_config("llama")
    codebook = random_codebook(config)
    codebook.config.residual_length, codebook.config.sink_length = 33, 2
    layer = VecInferCache(config, codebook).layers[0]
    assert (layer.residual_length, layer.sink_length) == (33, 2)
    layer = VecInferCache(config, codebook, residual_length=0, sink_length=0).layers[0]
    assert (layer.residual_length, layer.sink_length) == (0, 0)


@pytest.mark.parametrize("option", [{"residual": 3}, {"backend2": 1}, {"nbits": 2}])
def test_an_unknown_option_is_refused_by_name(option):
    config = tiny_config("llama")
    with pytest.raises(TypeError, match=next(iter(option))):
        VecInferCache(config, random_codebook(config), **option)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 3},
        {"num_key_value_heads": 4},
        {"head_dim": 32},
    ],
    ids=str,
)
def test_the_codebook_of_another_model_is_refused(change):
    codebook = random_codebook(tiny_config("llama"))
    with pytest.raises(CodebookError, match=next(iter(change))) as raised:
        VecInferCache(tiny_config("llama", **change), codebook)
    assert "calibrate" in str(raised.value)


def test_the_codebook_of_another_family_is_refused():
    with pytest.raises(CodebookError, match=r"llama.*qwen2"):
        VecInferCache(tiny_config("qwen2"), random_codebook(tiny_config("llama")))


def test_no_codebook_says_how_to_get_one():
    with pytest.raises(CodebookError, match="found none.*vecinfer calibrate MODEL"):
        VecInferCache(tiny_config("llama"))


def test_encoder_decoder_and_latent_caches_are_refused():
    llama = random_codebook(tiny_config("llama"))
    with pytest.raises(ValueError, match=r"t5 is an encoder-decoder.*default cache"):
        VecInferCache(transformers.T5Config(), llama)
    with pytest.raises(ValueError, match=r"deepseek_v3 caches latent.*default cache"):
        VecInferCache(transformers.DeepseekV3Config(num_hidden_layers=1), llama)


def test_a_model_without_full_attention_is_told_that_nothing_is_quantized(caplog):
    config = tiny_config("mistral", sliding_window=24)
    logger.warning_once.cache_clear()
    cache = VecInferCache(config, random_codebook(config))
    assert not cache.quantized_layers
    assert "mistral has no layer with full attention" in caplog.text
