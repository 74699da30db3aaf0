# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""attention.py: whole models through the registered attention, against stock attention and a float64 oracle."""

import copy
import types

import pytest
import torch
from cache_oracle import decode_attention as oracle
from cache_oracle import empty_buffers, filled_buffers
from tiny_codebooks import random_codebook
from tiny_models import FAMILIES, tiny_config, tiny_inputs, tiny_model
from transformers.cache_utils import DynamicCache

from vecinfer_hf import UnsupportedMaskError, VecInferCache
from vecinfer_hf.attention import later_tokens
from vecinfer_hf.integration.compat import cache_argument
from vecinfer_hf.integration.forward import vecinfer_attention_forward


# Both sides are float32 forwards of a model of 2 layers whose logits are of order 10; sums of at most a few hundred
# terms in another order differ by some hundreds of eps of that.
LOGIT_NOISE = 500 * torch.finfo(torch.float32).eps * 10


def vecinfer_cache(model, residual_length=128, **options):
    return VecInferCache(
        model.config,
        random_codebook(model.config),
        residual_length=residual_length,
        ops_backend="reference",
        **options,
    )


def run(model, ids, cache, pieces, mask=None):
    """Logits of all columns, forward by forward."""
    logits, at = [], 0
    with torch.no_grad():
        for tokens in pieces:
            part = None if mask is None else mask[:, : at + tokens]
            positions = None if mask is None else (mask.cumsum(1) - 1).clamp_min(0)[:, at : at + tokens]
            output = model(
                ids[:, at : at + tokens], attention_mask=part, position_ids=positions, **cache_argument(cache)
            )
            logits.append(output.logits)
            at += tokens
    return torch.cat(logits, dim=1)


def left_padded(ids, paddings):
    """Move the tokens of each row right by its padding; return ids and the 2-D mask."""
    rows, masks = [], []
    for row, padding in zip(ids, paddings, strict=True):
        rows.append(torch.cat([row.new_zeros(padding), row[: len(row) - padding]]))
        masks.append(torch.cat([row.new_zeros(padding), row.new_ones(len(row) - padding)]))
    return torch.stack(rows), torch.stack(masks)


PIECES = {"one": [60], "decode": [50] + [1] * 10, "chunks": [20, 20, 20], "few": [44, 5, 11], "singles": [1] * 60}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_long_window_every_family_gives_the_stock_logits(family, pieces):
    model, ids = tiny_model(family), tiny_inputs(2, 60)
    model.set_attn_implementation("eager")
    wanted = run(model, ids, DynamicCache(config=model.config), pieces)
    model.set_attn_implementation("vecinfer")
    logits = run(model, ids, vecinfer_cache(model), pieces)
    assert (logits - wanted).abs().max() <= LOGIT_NOISE


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_left_padding_with_a_long_window_gives_the_stock_logits(family, pieces):
    model = tiny_model(family)
    ids, mask = left_padded(tiny_inputs(3, 60), [0, 7, 25])
    model.set_attn_implementation("eager")
    wanted = run(model, ids, DynamicCache(config=model.config), pieces, mask)
    model.set_attn_implementation("vecinfer")
    logits = run(model, ids, vecinfer_cache(model), pieces, mask)
    real = mask.bool()
    assert (logits - wanted)[real].abs().max() <= LOGIT_NOISE


@pytest.mark.parametrize("pieces", [[50] + [1] * 10, [20, 17, 5, 18], [16] * 3 + [12]], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_row_is_the_same_row_alone_with_codes(family, pieces):
    model = tiny_model(family)
    model.set_attn_implementation("vecinfer")
    paddings = [0, 9, 30]
    ids, mask = left_padded(tiny_inputs(3, 60), paddings)
    logits = run(model, ids, vecinfer_cache(model, 8), pieces, mask)
    for row, padding in enumerate(paddings):
        # The same cuts, without the padding.
        ends = [max(sum(pieces[: index + 1]) - padding, 0) for index in range(len(pieces))]
        alone_pieces = [end - start for start, end in zip([0, *ends], ends, strict=False) if end > start]
        alone = run(model, ids[row : row + 1, padding:], vecinfer_cache(model, 8), alone_pieces)
        assert (logits[row, padding:] - alone[0]).abs().max() <= LOGIT_NOISE


def test_stock_caches_and_no_cache_run_as_sdpa():
    model, ids = tiny_model("llama"), tiny_inputs(2, 30)
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[1, :6] = 0
    results = {}
    for name in ("sdpa", "vecinfer"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            results[name] = [
                model(ids, use_cache=False).logits,
                model(ids, attention_mask=mask).logits,
                run(model, ids, DynamicCache(config=model.config), [20, 1, 9]),
            ]
    for stock, ours in zip(results["sdpa"], results["vecinfer"], strict=True):
        assert torch.equal(stock, ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_low_precision_models_run_on_every_path(family, dtype):
    """No path lets a float32 leak into the model; logits stay within the dtype's own noise of float32 attention."""
    model, ids = tiny_model(family, dtype=dtype), tiny_inputs(1, 60)
    model.set_attn_implementation("eager")
    wanted = run(model, ids, DynamicCache(config=model.config), [40, 20])
    model.set_attn_implementation("vecinfer")
    logits = run(model, ids, vecinfer_cache(model), [40, 20])
    assert logits.dtype == dtype
    # Two layers, each output rounded: some tens of roundings of values of order 10 to 40.
    noise = 64 * torch.finfo(dtype).eps * wanted.abs().max()
    assert (logits - wanted).abs().float().mean() <= noise / 4
    exact = [run(model, ids, vecinfer_cache(model, 8), pieces).float() for pieces in ([60], [40, 20], [40, 1, 16, 3])]
    assert all(torch.isfinite(logits).all() for logits in exact)


def attention_call(layer_cache, query, keys, values, mask=None, scaling=0.25, **kwargs):
    handles = layer_cache.update(keys, values, 0)
    module = types.SimpleNamespace(
        is_causal=True, num_key_value_groups=query.shape[1] // keys.shape[1], training=False
    )
    return vecinfer_attention_forward(module, query, *handles, mask, scaling=scaling, **kwargs)[0].transpose(1, 2)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("queries", [1, 5, 16, 17, 40])
def test_attention_over_codes_is_the_oracles(queries, with_sinks, softcap):
    """Short queries run over the stored tokens, long ones over what was stored before and themselves exactly."""
    config = tiny_config("llama", num_hidden_layers=1)
    codebook = random_codebook(config, mean=True)
    cache = VecInferCache(
        config, codebook, residual_length=16, sink_length=4, sink_choice="first", ops_backend="reference"
    )
    keys, values = torch.randn(2, 2, 2, 60 + queries, 16)
    query = torch.randn(2, 4, queries, 16)
    sinks = torch.randn(4) if with_sinks else None
    attention_call(cache, torch.randn(2, 4, 60, 16), keys[:, :, :60], values[:, :, :60])
    layer = codebook.layers[0]
    got = attention_call(
        cache, query, keys[:, :, 60:], values[:, :, 60:], softcap=softcap, s_aux=sinks,
        mask=torch.ones(1, 1, queries, 60 + queries, dtype=torch.bool).tril(60),
    )  # fmt: skip
    if queries <= 16:
        buffers, residual = filled_buffers(layer, keys, values, [60 + queries] * 2, 4, 16), 16
    else:
        # Codes as after the first 60 tokens; the new ones join a longer ring that quantizes nothing.
        old = filled_buffers(layer, keys[:, :, :60], values[:, :, :60], [60] * 2, 4, 16)
        residual = 16 + queries
        buffers = empty_buffers(layer, 2, 4, residual, 60)
        buffers = buffers._replace(codes=old.codes, sink_keys=old.sink_keys, sink_values=old.sink_values)
        for n in range(40, 56 + queries):
            buffers.ring_keys[:, :, n % residual] = keys[:, :, n + 4]
            buffers.ring_values[:, :, n % residual] = values[:, :, n + 4]
        buffers.lengths.fill_(60 + queries)
        buffers.quantized_lengths.fill_(40)
    wanted, _, bound, _ = oracle(query, buffers, layer, residual, 0.25, softcap or 0.0, sinks)
    assert (got - wanted).abs().max() <= bound


def test_long_queries_may_be_cut_anywhere(monkeypatch):
    model, ids = tiny_model("llama"), tiny_inputs(2, 200)
    model.set_attn_implementation("vecinfer")
    monkeypatch.setattr(later_tokens, "serves_chunks", lambda *_: False)
    whole = run(model, ids, vecinfer_cache(model, 8), [50, 150])
    monkeypatch.setattr(later_tokens, "SCORE_ELEMENTS", 1)
    pieces = run(model, ids, vecinfer_cache(model, 8), [50, 150])
    assert (whole - pieces).abs().max() <= LOGIT_NOISE


def test_codes_change_the_answer_but_not_wildly():
    """A window shorter than the text is really used: logits differ from the stock ones, and are finite."""
    model, ids = tiny_model("llama"), tiny_inputs(1, 80)
    model.set_attn_implementation("vecinfer")
    exact = run(model, ids, vecinfer_cache(model), [60, 20])
    coded = run(model, ids, vecinfer_cache(model, 8), [60, 20])
    assert torch.equal(exact[:, :60], coded[:, :60])
    assert torch.isfinite(coded).all()
    assert (exact[:, 60:] - coded[:, 60:]).abs().max() > 1000 * LOGIT_NOISE


def test_a_sliding_window_over_codes_is_refused():
    config = tiny_config("llama")
    cache = VecInferCache(config, random_codebook(config), ops_backend="reference")
    states = torch.randn(2, 1, 2, 3, 16)
    with pytest.raises(ValueError, match=r"sliding window of 24.*default cache"):
        attention_call(cache, torch.randn(1, 4, 3, 16), *states, sliding_window=24)


def bidirectional(mask):
    return torch.ones_like(mask)


def windowed(mask):
    return mask & torch.ones_like(mask).triu(-3)


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("change", [bidirectional, windowed])
def test_a_first_prompt_attends_by_its_own_mask_and_later_calls_do_not(change, as_float):
    model, ids = tiny_model("llama"), tiny_inputs(1, 12)
    mask = change(torch.ones(1, 1, 12, 12, dtype=torch.bool).tril())
    if as_float:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        model.set_attn_implementation("vecinfer")
        cache = vecinfer_cache(model)
        found = model(ids, attention_mask=mask, **cache_argument(cache)).logits
        assert (found - expected).abs().max() <= LOGIT_NOISE
        assert cache.layers[0].read_lengths().tokens == [12]
        wide = torch.nn.functional.pad(mask, (12, 0), value=0 if as_float else True)
        with pytest.raises(UnsupportedMaskError, match="default cache"):
            model(ids, attention_mask=wide, **cache_argument(cache))


def test_a_float_mask_of_causal_attention_is_honoured():
    model, ids = tiny_model("llama"), tiny_inputs(2, 30)
    model.set_attn_implementation("vecinfer")
    ids, mask = left_padded(ids, [0, 6])
    causal = torch.ones(30, 30, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
    additive = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    results = []
    for each in (causal, additive):
        cache = vecinfer_cache(model, 8)
        with torch.no_grad():
            logits = model(ids, attention_mask=each, position_ids=positions, **cache_argument(cache)).logits
        assert cache.layers[0].read_lengths().tokens == [30, 24]
        results.append(logits[mask.bool()])
    assert (results[0] - results[1]).abs().max() <= LOGIT_NOISE


@pytest.mark.parametrize("change", ["hidden", "shown", "hole", "dropped"])
def test_a_mask_that_changes_its_mind_is_refused(change):
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    ids, mask = left_padded(tiny_inputs(2, 20), [0, 5])
    cache = vecinfer_cache(model)
    with torch.no_grad():
        model(ids, attention_mask=mask, **cache_argument(cache))
        later = torch.cat([mask, mask.new_ones(2, 1)], 1)
        if change == "hidden":
            later[0, 0] = 0
        elif change == "shown":
            later[1, 4] = 1
        elif change == "hole":
            later[0, 12] = 0
        with pytest.raises(UnsupportedMaskError, match="mask"):
            model(tiny_inputs(2, 1), attention_mask=None if change == "dropped" else later, **cache_argument(cache))
        # Nothing is lost: the same call with the right mask goes on where the cache was.
        assert cache.get_seq_length() == 20
        right = torch.cat([mask, mask.new_ones(2, 1)], 1)
        logits = model(tiny_inputs(2, 1), attention_mask=right, **cache_argument(cache)).logits
        fresh = vecinfer_cache(model)
        model(ids, attention_mask=mask, **cache_argument(fresh))
        assert torch.equal(logits, model(tiny_inputs(2, 1), attention_mask=right, **cache_argument(fresh)).logits)


def test_holes_in_a_first_prompt_are_honoured():
    """Padding between and behind real tokens: the row equals its real tokens alone."""
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    ids = tiny_inputs(3, 40)
    mask = torch.ones(3, 40, dtype=torch.long)
    mask[0, 10:20] = 0
    mask[1, 35:] = 0
    cache = vecinfer_cache(model, 8)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=positions, **cache_argument(cache)).logits
        more = torch.cat([mask, mask.new_ones(3, 1)], 1)
        next_position = mask.sum(1, keepdim=True)
        step = model(ids[:, :1], attention_mask=more, position_ids=next_position, **cache_argument(cache)).logits
        for row in range(3):
            real = mask[row].bool()
            alone = vecinfer_cache(model, 8)
            wanted = model(ids[row : row + 1, real], **cache_argument(alone)).logits
            assert (logits[row, real] - wanted[0]).abs().max() <= LOGIT_NOISE
            wanted = model(ids[row : row + 1, :1], **cache_argument(alone)).logits
            assert (step[row] - wanted[0]).abs().max() <= LOGIT_NOISE


ROW_OPERATIONS = {
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2], 0),
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 2])), [2, 0, 2], 0),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([2, 1])), [2, 1], 0),
    "boolean": (lambda cache: cache.batch_select_indices(torch.tensor([True, False, True])), [0, 2], 0),
    "crop": (lambda cache: cache.crop(-5), [0, 1, 2], 5),
    "crop into the codes": (lambda cache: cache.crop(-25), [0, 1, 2], 25),
    "copy": (lambda cache: copy.deepcopy(cache), [0, 1, 2], 0),
}


@pytest.mark.parametrize("name", ROW_OPERATIONS)
def test_rows_of_a_padded_cache_keep_their_padding_and_their_length(name):
    """After every operation each row still answers as the row alone."""
    operate, rows, removed = ROW_OPERATIONS[name]
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    paddings, more = [0, 9, 30], tiny_inputs(1, 9, seed=3)
    ids, mask = left_padded(tiny_inputs(3, 60), paddings)
    cache = vecinfer_cache(model, 8)
    run(model, ids, cache, [60], mask)
    cache = operate(cache) or cache
    assert cache.layers[0].read_lengths().tokens == cache.layers[0].buffers.lengths.tolist()
    assert cache.layers[0].read_lengths().quantized == cache.layers[0].buffers.quantized_lengths.tolist()

    def go_on(cache, mask):
        logits = []
        for start, end in ((0, 5), (5, 6), (6, 9)):
            mask = torch.nn.functional.pad(mask, (0, end - start), value=1)
            positions = (mask.cumsum(1) - 1)[:, start - end :]
            new = more[:, start:end].expand(mask.shape[0], -1)
            logits.append(model(new, attention_mask=mask, position_ids=positions, **cache_argument(cache)).logits)
        return torch.cat(logits, 1)

    with torch.no_grad():
        together = go_on(cache, mask[rows, : 60 - removed])
        for place, row in enumerate(rows):
            alone = vecinfer_cache(model, 8)
            model(ids[row : row + 1, paddings[row] :], **cache_argument(alone))
            alone.crop(-removed)
            wanted = go_on(alone, torch.ones(1, 60 - paddings[row] - removed, dtype=torch.long))
            assert (together[place] - wanted[0]).abs().max() <= LOGIT_NOISE


def test_a_reset_cache_has_no_padding():
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    ids, mask = left_padded(tiny_inputs(2, 30), [0, 9])
    cache = vecinfer_cache(model, 8)
    run(model, ids, cache, [30], mask)
    cache.crop(-30)
    # Nothing is left, so a next text needs no mask.
    assert torch.equal(run(model, ids, cache, [30]), run(model, ids, vecinfer_cache(model, 8), [30]))
    cache.reset()
    assert torch.equal(run(model, ids, cache, [30]), run(model, ids, vecinfer_cache(model, 8), [30]))
    # The very same mask object again, as a caller with its own 4-D mask would bring it.
    causal = torch.ones(30, 30, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
    for _ in range(2):
        cache.reset()
        with torch.no_grad():
            model(ids, attention_mask=causal, **cache_argument(cache))
        assert cache.layers[0].read_lengths().tokens == [30, 21]
        assert cache.forward_pass.padding.valid_tokens(0, 30, 2) == [30, 21]


def test_holes_in_a_later_chunk_are_honoured():
    """Padding between the real tokens of a second forward is neither stored nor seen."""
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    ids, mask = tiny_inputs(2, 60), torch.ones(2, 60, dtype=torch.long)
    mask[0, 45:50] = 0
    logits = run(model, ids, vecinfer_cache(model, 8), [40, 20], mask)
    alone = run(model, ids[:1, mask[0].bool()], vecinfer_cache(model, 8), [40, 15])
    assert (logits[0, mask[0].bool()] - alone[0]).abs().max() <= LOGIT_NOISE


def test_reading_a_padded_cache_puts_every_token_in_its_column():
    model = tiny_model("llama")
    ids, mask = left_padded(tiny_inputs(3, 40), [0, 9, 30])
    model.set_attn_implementation("sdpa")
    stock = DynamicCache(config=model.config)
    run(model, ids, stock, [40], mask)
    model.set_attn_implementation("vecinfer")
    cache = vecinfer_cache(model)
    run(model, ids, cache, [40], mask)
    keys, values = cache.layers[0].read(40)
    real = mask.bool()[:, None, :, None]
    # The first layer's keys and values come before any attention: equal to the bit.
    assert torch.equal(keys, stock.layers[0].keys.masked_fill(~real, 0))
    assert torch.equal(values, stock.layers[0].values.masked_fill(~real, 0))
