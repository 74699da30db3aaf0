# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The figures agree with a plain computation, and with codes switched off the two caches agree with each other."""

import math

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf.cache.online_codebook import OnlineCodebook
from vecinfer_hf.evaluation import evaluate_perplexity, text_windows


class LetterTokenizer:
    """One token per character, with an optional beginning-of-text token."""

    bos_token_id = 1

    def __init__(self, adds_bos: bool):
        self.adds_bos = adds_bos

    def __call__(self, text, add_special_tokens=True, **_):
        ids = [10 + ord(letter) - ord("a") for letter in text]
        return {"input_ids": [1] * (self.adds_bos and add_special_tokens) + ids}


def test_windows_are_whole_disjoint_and_spread_over_the_text():
    windows = text_windows(LetterTokenizer(False), "abcdefghij", 2, max_windows=2)
    assert windows.tolist() == [[10, 11], [14, 15]]
    assert text_windows(LetterTokenizer(False), "abcdefg", 2).shape == (3, 2)


def test_every_window_begins_with_the_tokenizers_bos():
    assert text_windows(LetterTokenizer(True), "abcdef", 3).tolist() == [[1, 10, 11], [1, 12, 13], [1, 14, 15]]


def test_text_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="3 tokens, but one window needs 8"):
        text_windows(LetterTokenizer(False), "abc", 8)


@pytest.fixture
def model():
    return tiny_model("llama")


def test_stock_perplexity_is_that_of_one_forward_pass(model):
    windows = tiny_inputs(2, 50)
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    result = evaluate_perplexity(model, windows, random_codebook(model.config), chunk_length=7, residual_length=8)
    # Chunks change the order of float32 sums only.
    assert math.log(result.perplexity_stock) == pytest.approx(loss.item(), rel=1e-5)
    assert result.tokens == 2 * 49


def test_without_codes_nothing_is_lost(model):
    result = evaluate_perplexity(model, tiny_inputs(1, 60), random_codebook(model.config), residual_length=64)
    assert result.perplexity_ratio == pytest.approx(1, abs=1e-5)
    assert result.kl_divergence == pytest.approx(0, abs=1e-6)
    assert result.top1_agreement == 1


def test_codes_of_a_bad_codebook_show(model):
    result = evaluate_perplexity(
        model, tiny_inputs(1, 120), random_codebook(model.config), residual_length=16, sink_length=1
    )
    assert result.kl_divergence > 0.01
    assert result.top1_agreement < 1
    assert result.perplexity_ratio == pytest.approx(result.perplexity_vecinfer / result.perplexity_stock)


def test_batches_and_chunks_do_not_change_the_stock_side(model):
    windows = tiny_inputs(3, 40)
    codebook = random_codebook(model.config)
    alone = evaluate_perplexity(model, windows, codebook, residual_length=16)
    together = evaluate_perplexity(model, windows, codebook, residual_length=16, chunk_length=5, batch_size=2)
    assert together.perplexity_stock == pytest.approx(alone.perplexity_stock, rel=1e-5)


def test_batched_windows_are_quantized_as_alone(model):
    windows = tiny_inputs(3, 80)
    codebook = random_codebook(model.config)
    alone = evaluate_perplexity(model, windows, codebook, residual_length=16)
    together = evaluate_perplexity(model, windows, codebook, residual_length=16, batch_size=3)
    assert together.perplexity_vecinfer == pytest.approx(alone.perplexity_vecinfer, rel=1e-4)
    assert together.kl_divergence == pytest.approx(alone.kl_divergence, rel=1e-3)


def test_sizes_are_those_of_the_format(model):
    result = evaluate_perplexity(model, tiny_inputs(1, 50), random_codebook(model.config), residual_length=16)
    # 2 layers, 2 heads of 16 channels, keys and values.
    assert result.elements_per_token == 2 * 2 * 16 * 2
    assert result.bytes_per_token_stock == result.elements_per_token * 4
    # 4 sub-vectors of a key fill its plane; a value plane has room for 8, so half of it is padding: (2 + 4) / 2 bits.
    assert result.bits_per_element == 3
    assert result.bytes_per_token == result.elements_per_token * 3 / 8
    assert result.cache_nbytes_stock == 49 * result.bytes_per_token_stock


def test_progress_counts_every_token_and_attention_is_put_back(model):
    done = []
    evaluate_perplexity(model, tiny_inputs(2, 40), random_codebook(model.config), progress=done.append)
    assert sum(done) == 2 * 39
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("chunk_length", [0, 17])
def test_chunks_longer_than_a_decode_step_are_refused(model, chunk_length):
    with pytest.raises(ValueError, match=f"chunk_length is {chunk_length}; it must be 1 to 16"):
        evaluate_perplexity(model, tiny_inputs(1, 40), random_codebook(model.config), chunk_length=chunk_length)


def test_one_token_has_nothing_to_predict(model):
    with pytest.raises(ValueError, match="at least 2"):
        evaluate_perplexity(model, tiny_inputs(1, 1), random_codebook(model.config))


def test_a_prompt_is_read_but_not_counted(model):
    windows = tiny_inputs(2, 50)
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits[:, 20:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 21:].flatten())
    codebook = random_codebook(model.config)
    result = evaluate_perplexity(model, windows, codebook, chunk_length=7, prompt_length=20, residual_length=64)
    assert math.log(result.perplexity_stock) == pytest.approx(loss.item(), rel=1e-5)
    assert (result.tokens, result.prompt_length) == (2 * 29, 20)
    assert result.kl_divergence == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="prompt of 49 have nothing to predict"):
        evaluate_perplexity(model, windows, codebook, prompt_length=49)


def test_an_online_codebook_is_fitted_to_each_batch_anew(model, monkeypatch):
    windows = tiny_inputs(3, 120)
    with pytest.raises(ValueError, match="is fitted to a prompt"):
        evaluate_perplexity(model, windows, "online")
    fitted = []
    own = OnlineCodebook.fit

    def fit(self, index, keys, *rest, **options):
        fitted.append((index, keys.shape[1]))
        own(self, index, keys, *rest, **options)

    monkeypatch.setattr(OnlineCodebook, "fit", fit)
    options = {"prompt_length": 80, "residual_length": 8, "sink_length": 2}
    result = evaluate_perplexity(model, windows, "online", batch_size=1, **options)
    # Two layers, three windows; to the prompt, not to the first chunk.
    assert [index for index, _ in fitted] == [0, 1] * 3
    assert all(length > 60 for _, length in fitted)
    assert result.kl_divergence > 0
    # Codes fitted to the prompt are far better than random ones.
    random = evaluate_perplexity(model, windows, random_codebook(model.config), batch_size=1, **options)
    assert result.kl_divergence < 0.5 * random.kl_divergence
