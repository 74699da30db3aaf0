# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""layer.py: the storage of one layer against a stock DynamicLayer fed the same states."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from cache_oracle import stored_tokens
from filling import put
from tiny_codebooks import random_codebook
from tiny_models import tiny_config
from transformers.cache_utils import DynamicLayer

from vecinfer_hf import UnsupportedCallError
from vecinfer_hf.cache.forward_pass import ForwardPass
from vecinfer_hf.cache.handle import CacheHandle
from vecinfer_hf.cache.layer import VecInferLayer
from vecinfer_hf.cache.sinks import FIRST, SMALL_VALUES


HEADS, DIM = 2, 16


def make_layer(residual=8, sinks=4, choice=FIRST, **codebook):
    codebook = random_codebook(tiny_config("llama"), **codebook)
    return VecInferLayer(0, codebook, 2 * HEADS, residual, sinks, choice, "reference", ForwardPass())


def new_states(batch, tokens, dtype=torch.float32):
    return torch.randn(2, batch, HEADS, tokens, DIM).to(dtype)


def feed(layers, batch, pieces, dtype=torch.float32):
    for tokens in pieces:
        states = new_states(batch, tokens, dtype)
        for layer in layers:
            put(layer, *states) if isinstance(layer, VecInferLayer) else layer.update(*states)


def assert_same_content(layer, stock):
    keys, values = layer.read(layer.get_seq_length())
    assert torch.equal(keys, stock.keys)
    assert torch.equal(values, stock.values)
    assert layer.get_seq_length() == stock.get_seq_length()
    assert layer.get_mask_sizes(3) == stock.get_mask_sizes(3)
    assert layer.get_max_length() == stock.get_max_length()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("sinks", "choice"), [(0, SMALL_VALUES), (4, SMALL_VALUES), (4, FIRST)])
@pytest.mark.parametrize("pieces", [[1], [40], [3, 1, 1, 1], [40, 1, 1, 20, 1], [2, 30, 17, 16], [90, 1]], ids=str)
def test_with_a_long_window_it_is_the_stock_layer(pieces, sinks, choice, dtype):
    layer, stock = make_layer(128, sinks, choice=choice), DynamicLayer()
    feed([layer, stock], 2, pieces, dtype)
    assert_same_content(layer, stock)
    assert layer.read()[0].dtype == dtype


def test_before_the_first_token_it_is_empty_and_every_call_is_harmless():
    layer, stock = make_layer(), DynamicLayer()
    layer.reset()
    layer.crop(-3)
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0]))
    layer.reorder_cache(torch.tensor([0]))
    layer.offload()
    layer.prefetch()
    assert layer.get_seq_length() == stock.get_seq_length() == 0
    assert layer.get_mask_sizes(5) == stock.get_mask_sizes(5) == (5, 0)
    assert not layer.is_initialized


@pytest.mark.parametrize("choice", [FIRST, SMALL_VALUES])
@pytest.mark.parametrize("removed", [0, 1, 5, 12, 39, 40, 55])
def test_crop_is_the_stock_crop(removed, choice):
    layer, stock = make_layer(128, choice=choice), DynamicLayer()
    feed([layer, stock], 2, [30, 10])
    layer.crop(-removed)
    stock.crop(-min(removed, 40))
    assert layer.get_seq_length() == stock.get_seq_length()
    if removed < 40:
        assert_same_content(layer, stock)
    else:
        assert layer.read_lengths().tokens == [0, 0]
    if removed < 40:
        feed([layer, stock], 2, [1, 25])
        assert_same_content(layer, stock)


@pytest.mark.parametrize("removed", [1, 7, 8, 9, 20, 35, 36, 37, 39, 40])
def test_crop_into_the_codes_keeps_the_codes(removed):
    layer = make_layer(residual=8, sinks=4)
    feed([layer], 1, [40])
    before = layer.read(40)
    layer.crop(-removed)
    left = 40 - removed
    assert layer.read_lengths().tokens == layer.buffers.lengths.tolist() == [left]
    assert layer.read_lengths().quantized == layer.buffers.quantized_lengths.tolist() == [min(28, max(left - 4, 0))]
    for old, new in zip(before, layer.read(left), strict=True):
        assert torch.equal(old[:, :, :left], new)
    # The next tokens change nothing but the tokens that leave the window, which are coded now.
    states = new_states(1, 6)
    for token in range(6):
        put(layer, *states[:, :, :, token : token + 1])
    keys, values = layer.read(left + 6)
    assert layer.read_lengths().quantized == [max(min(28, max(left - 4, 0)), left + 6 - 12)]
    for index in range(left):
        same = torch.equal(keys[:, :, index], before[0][:, :, index])
        assert same == (not 32 <= index < 4 + layer.read_lengths().quantized[0]), index
    assert torch.equal(keys[:, :, left:], states[0])
    assert torch.equal(values[:, :, left:], states[1])


def test_crop_refuses_a_positive_number_as_the_stock_one_does():
    layer = make_layer()
    feed([layer], 1, [10])
    with pytest.raises(ValueError, match=r"crop\(3\).*negative"):
        layer.crop(3)
    assert layer.get_seq_length() == 10


@pytest.mark.parametrize("residual", [8, 128])
@pytest.mark.parametrize("indices", [[2, 0], [1, 1, 1, 0], [0], [2, 1, 0]], ids=str)
def test_select_and_reorder_move_whole_rows(indices, residual):
    layer = make_layer(residual)
    feed([layer], 3, [40, 1, 1])
    keys, values = layer.read(42)
    for method in (layer.batch_select_indices, layer.reorder_cache):
        changed = copy.deepcopy(layer)
        method.__func__(changed, torch.tensor(indices))
        new_keys, new_values = changed.read(42)
        assert torch.equal(new_keys, keys[indices])
        assert torch.equal(new_values, values[indices])
        assert changed.buffers.lengths.tolist() == changed.read_lengths().tokens == [42] * len(indices)
    assert torch.equal(layer.read(42)[0], keys)


def test_select_takes_a_boolean_mask():
    layer = make_layer()
    feed([layer], 3, [40])
    keys = layer.read(40)[0]
    layer.batch_select_indices(torch.tensor([True, False, True]))
    assert torch.equal(layer.read(40)[0], keys[[0, 2]])


@pytest.mark.parametrize("residual", [8, 128])
def test_repeat_interleave_repeats_rows(residual):
    layer = make_layer(residual)
    feed([layer], 2, [40])
    keys, values = layer.read(40)
    layer.batch_repeat_interleave(3)
    assert torch.equal(layer.read(40)[0], keys.repeat_interleave(3, 0))
    assert torch.equal(layer.read(40)[1], values.repeat_interleave(3, 0))
    # The rows are separate now.
    put(layer, *new_states(6, 1))
    assert layer.read_lengths().tokens == [41] * 6


def test_reset_forgets_and_the_layer_can_be_used_again_with_another_batch():
    layer, stock = make_layer(128), DynamicLayer()
    feed([layer], 3, [40])
    layer.reset()
    assert layer.get_seq_length() == 0
    assert not layer.is_initialized
    feed([layer, stock], 2, [10, 1])
    assert_same_content(layer, stock)


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_copies_are_independent(clone):
    layer = make_layer()
    feed([layer], 2, [40])
    before = [tensor.clone() for tensor in layer.buffers if tensor is not None]
    copied = clone(layer)
    feed([copied], 2, [1, 20, 1])
    for old, now in zip(before, [x for x in layer.buffers if x is not None], strict=True):
        assert torch.equal(old, now)
    assert layer.get_seq_length() == 40
    assert copied.get_seq_length() == 62


def test_what_is_read_is_what_the_oracle_decodes():
    """Sinks and window to the bit; coded tokens from their bytes, each in its own column."""
    layer = make_layer(residual=8, sinks=4, mean=True)
    states = new_states(2, 45)
    put(layer, *states)
    keys, values = layer.read(45)
    for row in range(2):
        for head in range(HEADS):
            wanted = stored_tokens(layer.buffers, layer.layer_codebook, 8, row, head)
            for got, want, exact in zip((keys, values), wanted, states, strict=True):
                # A 16-term float32 sum through a transform of condition below 3.
                assert torch.allclose(
                    got[row, head].double(), want, rtol=0, atol=3 * 22 * 1.2e-7 * want.abs().max() * 4
                )
                assert torch.equal(got[row, head, :4], exact[row, head, :4])
                assert torch.equal(got[row, head, 37:], exact[row, head, 37:])
                assert not torch.equal(got[row, head, 4:37], exact[row, head, 4:37])


@pytest.mark.parametrize("residual", [0, 1, 8, 33])
@pytest.mark.parametrize("sinks", [0, 4])
def test_one_call_chunks_and_tokens_store_the_same_bytes(sinks, residual):
    states = new_states(2, 75)
    layers = []
    for pieces in ([75], [40, 35], [16] * 4 + [11], [1] * 75, [5, 60, 1, 9]):
        layer, at = make_layer(residual, sinks), 0
        for tokens in pieces:
            put(layer, *states[:, :, :, at : at + tokens])
            at += tokens
        layers.append(layer)
    first = layers[0]
    formats = max(first.read_lengths().quantized)
    for layer in layers[1:]:
        assert layer.read_lengths().tokens == first.read_lengths().tokens
        assert layer.read_lengths().quantized == first.read_lengths().quantized
        tiles = -(-formats // 32)
        assert torch.equal(layer.buffers.codes[:, :, :tiles], first.buffers.codes[:, :, :tiles])
        assert torch.equal(layer.read(75)[0], first.read(75)[0])
        assert torch.equal(layer.read(75)[1], first.read(75)[1])
        assert torch.equal(layer.buffers.lengths, first.buffers.lengths)


def test_rows_of_different_length_are_stored_compactly():
    """With a mask of real tokens each row equals a layer that saw only those."""
    real = torch.tensor([[0] * 10 + [1] * 30, [1] * 40, [0] * 37 + [1] * 3, [0, 1] * 20]).bool()
    states = new_states(4, 40)
    layer = make_layer()
    put(layer, *states, real)
    assert layer.read_lengths().tokens == [30, 40, 3, 20]
    for row in range(4):
        alone = make_layer()
        put(alone, *states[:, row : row + 1, :, real[row]])
        count = int(real[row].sum())
        for ours, theirs in zip(
            stored_tokens(layer.buffers, layer.layer_codebook, 8, row, 1),
            stored_tokens(alone.buffers, alone.layer_codebook, 8, 0, 1),
            strict=True,
        ):
            assert ours.shape[0] == count
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda handle: handle.shape, "reads 'shape'"),
        (lambda handle: handle[0], "uses __getitem__"),
        (lambda handle: torch.cat([handle, torch.ones(1)]), "calls cat"),
        (lambda handle: torch.nn.functional.scaled_dot_product_attention(*[handle] * 3), "calls scaled_dot_product"),
    ],
    ids=["attribute", "index", "cat", "sdpa"],
)
def test_a_handle_refuses_every_other_use_with_its_sentence(use, words):
    layer = make_layer()
    keys, values = new_states(1, 5)
    first, second = layer.update(keys, values)
    assert isinstance(first, CacheHandle)
    assert isinstance(second, CacheHandle)
    assert first.layer is layer
    assert first.states is keys
    assert second.states is values
    with pytest.raises(UnsupportedCallError, match=f"(?s){words}.*enable"):
        use(first)
    assert layer.get_seq_length() == 0
    assert not hasattr(first, "anything")


def test_a_model_of_another_shape_is_refused_with_both_shapes():
    layer = make_layer()
    with pytest.raises(ValueError, match=r"3 heads with keys of size 16.*2 heads of sizes 16 and 16"):
        put(layer, *torch.randn(2, 1, 3, 4, 16))
    with pytest.raises(ValueError, match=r"values of size 8"):
        layer.update(torch.randn(1, 2, 4, 16), torch.randn(1, 2, 4, 8))
    assert not layer.is_initialized


def test_nbytes_is_what_is_allocated():
    layer = make_layer()
    assert layer.nbytes == layer.codebook.layers[0].nbytes
    feed([layer], 2, [100, 1, 1])
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in layer.buffers
        if tensor is not None
    }
    assert layer.nbytes == sum(storages.values()) + layer.codebook.layers[0].nbytes


def test_growth_is_geometric_and_bounded():
    """Idle room for codes stays below an eighth (and a tile), and copies stay rare."""
    layer = make_layer(residual=4, sinks=0)
    feed([layer], 1, [200])
    copies, pointer = 0, layer.buffers.codes.data_ptr()
    for token in range(600):
        put(layer, *new_states(1, 1))
        tiles = layer.buffers.codes.shape[2]
        needed = -(-layer.read_lengths().quantized[0] // 32)
        assert needed <= tiles <= max(needed + 1, needed * 1.125 + 1), token
        copies += layer.buffers.codes.data_ptr() != pointer
        pointer = layer.buffers.codes.data_ptr()
    # 7 tiles grow to 25 by at least one tile each time.
    assert copies <= 18


def test_no_given_tensor_is_kept_alive_or_written():
    layer = make_layer(residual=8)
    keys, values = new_states(1, 40)
    original = keys.clone()
    references = [weakref.ref(tensor) for tensor in (keys, values)]
    storage = keys.untyped_storage().data_ptr()
    put(layer, keys, values)
    assert torch.equal(keys, original)
    assert all(tensor.untyped_storage().data_ptr() != storage for tensor in layer.buffers if tensor is not None)
    del keys, values
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_offload_and_prefetch_keep_the_content():
    layer = make_layer()
    feed([layer], 1, [30])
    before = layer.read(30)
    layer.offload()
    layer.prefetch()
    assert torch.equal(layer.read(30)[0], before[0])


def test_repr_names_the_formats():
    layer = make_layer(key_bits=4, value_bits=1.5)
    assert repr(layer) == "VecInferLayer(d4b8x2/d8b12, 0 tokens)"
