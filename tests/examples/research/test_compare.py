# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Peers and retrieval: the peers' arithmetic, their true bits, and that a needle that is read is counted."""

import math

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model

from examples.research.compare import compare, margins
from examples.research.intervals import paired_difference
from examples.research.methods import own_method, peer_methods
from examples.research.needles import needle_samples
from examples.research.peers import fp8, kivi, lloyd_max_levels, rotated_lloyd_max, uniform_per_token


class WordTokenizer:
    """One token per word, numbered as they come."""

    bos_token_id = 0

    def __init__(self):
        self.words = {}

    def __call__(self, text, add_special_tokens=True, verbose=True):
        ids = [1 + self.words.setdefault(word, len(self.words)) for word in text.split()]
        return {"input_ids": [0, *ids] if add_special_tokens else ids}


def test_lloyd_max_levels_are_those_of_the_literature():
    # Max, "Quantizing for minimum distortion", 1960: table I.
    torch.testing.assert_close(lloyd_max_levels(1), torch.tensor([-0.7980, 0.7980]), rtol=0, atol=2e-4)
    torch.testing.assert_close(lloyd_max_levels(2)[2:], torch.tensor([0.4528, 1.5104]), rtol=0, atol=2e-4)


def test_errors_of_gaussian_vectors_are_the_known_ones():
    states = torch.randn(1, 2, 4000, 64)
    for bits, distortion in ((2, 0.1175), (3, 0.03454)):
        peer = rotated_lloyd_max(bits, 64)
        error = (peer.key(states) - states).square().mean().item()
        # Normalizing by the vector's own norm takes away a little: 1 part in 64.
        assert error == pytest.approx(distortion, rel=0.05)
        assert peer.bits == bits + 16 / 64


def test_groups_keep_their_ends_and_err_by_half_a_step_at_most():
    states = torch.randn(1, 1, 64, 32)
    peer = uniform_per_token(2, 32)
    step = (states.amax(-1) - states.amin(-1)) / 3
    assert ((peer.value(states) - states).abs().amax(-1) <= step / 2 + 1e-6).all()
    assert peer.bits == 3
    own = kivi(2, 32)
    step = (states[:, :, :32].amax(-2) - states[:, :, :32].amin(-2)) / 3
    assert ((own.key(states)[:, :, :32] - states[:, :, :32]).abs().amax(-2) <= step / 2 + 1e-6).all()
    assert torch.equal(own.key(states[:, :, :40])[:, :, 32:], states[:, :, 32:40])


def test_the_table_has_a_row_for_each_and_the_codebook_first():
    model = tiny_model()
    codebook = random_codebook(model.config)
    methods = [own_method(model, codebook), *peer_methods(model, 4)[0]]
    rows = compare(model, tiny_inputs(2, 200), methods, batch_size=2)
    assert [row["name"] for row in rows] == [method.name for method in methods]
    assert rows[0]["name"] == "vecinfer"
    assert len({row["name"] for row in rows}) == len(rows) >= 6
    for row in rows:
        assert row["kl_divergence"] > 0
        assert 0 < row["top1_agreement"] < 1
        assert math.isfinite(row["perplexity_ratio"])


def test_samples_hold_their_needles_and_repeat_themselves():
    tokenizer = WordTokenizer()
    haystack = " ".join(f"w{i}" for i in range(500))
    samples = needle_samples(tokenizer, haystack, 200, 4, 3, seed=5)
    again = needle_samples(tokenizer, haystack, 200, 4, 3, seed=5)
    names = {number: word for word, number in tokenizer.words.items()}
    for sample, same in zip(samples, again, strict=True):
        assert torch.equal(sample.ids, same.ids)
        assert len(sample.ids) == 200
        words = [names[i - 1] for i in sample.ids.tolist() if i]
        assert words.count("magic") == 4 + 1
        answer = names[sample.ids[-1].item() - 1]
        asked = names[sample.ids[-3].item() - 1]
        place = words.index(answer + ".") if answer + "." in words else None
        assert place is not None
        assert words[place - 2] == asked
        assert place < sample.context_length


def test_questions_about_one_text_ask_for_different_numbers():
    tokenizer = WordTokenizer()
    haystack = " ".join(f"w{i}" for i in range(500))
    samples = needle_samples(tokenizer, haystack, 200, 4, 7, seed=5, questions=3)
    assert len(samples) == 7
    contexts = [tuple(sample.ids[: sample.context_length].tolist()) for sample in samples]
    assert contexts[0] == contexts[1] == contexts[2] != contexts[3] == contexts[5] != contexts[6]
    assert len({tuple(sample.ids.tolist()) for sample in samples}) == 7
    # The first question of a text is the one that is asked alone, of the same text.
    assert torch.equal(samples[0].ids, needle_samples(tokenizer, haystack, 200, 4, 1, seed=5)[0].ids)
    with pytest.raises(ValueError, match="questions is 5; it must be 1 to 4"):
        needle_samples(tokenizer, haystack, 200, 4, 7, questions=5)


def test_impossible_samples_are_refused():
    with pytest.raises(ValueError, match="keys is 99"):
        needle_samples(WordTokenizer(), "a b c", 100, 99, 1)
    with pytest.raises(ValueError, match="choose another length"):
        needle_samples(WordTokenizer(), "a b c", 100, 1, 1)


def test_margins_are_against_the_best_peer_of_few_bits():
    def row(name, bits, ratio, kl, agreement):
        values = {"perplexity_ratio": ratio, "kl_divergence": kl, "top1_agreement": agreement}
        return {"name": name, "bits": bits, **values}

    rows = [
        row("vecinfer", 2.0, 1.01, 0.02, 0.95),
        row("a", 2.5, 1.05, 0.01, 0.90),
        row("b", 3.0, 1.04, 0.09, 0.91),
        row("too many bits", 3.25, 1.00, 0.00, 0.99),
    ]
    found = {"name": "vecinfer", "bits": 2.0, "share": 0.8, "hits": 8, "missed": [0, 1]}
    other = {"name": "a", "bits": 2.5, "share": 0.9, "hits": 9, "missed": [1]}
    stock = {"name": "stock cache", "bits": 2.9, "share": 1.0, "hits": 10, "missed": []}
    got = margins(rows, [{"length": 4096, "keys": 4, "rows": [stock, found, other]}])
    assert [(entry["best_peer"], round(entry["margin"], 6)) for entry in got] == [
        ("b", 0.03),
        ("a", -0.01),
        ("b", 0.04),
        ("a", -0.1),
    ]
    assert got[3]["measure"] == "needles found, 4096 tokens, 4 keys"
    # One sample of ten is the peer's alone.
    assert (got[3]["low"], got[3]["high"]) == paired_difference(0, 1, 10)[1:]
    # Without a peer there is nothing to be better than.
    assert margins(rows[:1]) == []


def test_sinks_stay_exact_and_out_of_the_groups():
    states = torch.randn(1, 1, 68, 32)
    states[:, :, :4] *= 1000
    for peer in (kivi(2, 32), uniform_per_token(2, 32), fp8()):
        restored = peer.after_sinks(4).key(states)
        assert torch.equal(restored[:, :, :4], states[:, :, :4])
        assert torch.equal(restored[:, :, 4:], peer.key(states[:, :, 4:]))
    # Four huge tokens in a group of 32 widen its steps.
    spoiled, kept = (
        (peer.key(states) - states)[:, :, 4:32].square().mean() for peer in (kivi(2, 32), kivi(2, 32).after_sinks(4))
    )
    assert spoiled > 100 * kept


def test_fp8_errs_by_a_sixteenth_at_most():
    states = torch.randn(2, 3, 50, 16)
    error = (fp8().key(states) - states).abs()
    # e4m3 has 3 bits of fraction: half a step is 1/16 of a number; below 2**-6 of the scale steps are absolute.
    scale = states.abs().amax() / 448
    assert (error <= states.abs() / 16 + scale * 2**-10 + 1e-7).all()
