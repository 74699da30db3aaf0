# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""online_fit.py: a codebook of one prompt fits the prompt, with and without queries."""

import pytest
import torch

from vecinfer_hf.errors import ConfigError
from vecinfer_hf.quantization import online_fit
from vecinfer_hf.quantization.fake_quant import fake_quantize
from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.online_fit import attention_costs, fit_online


FORMATS = parse_format(2), parse_format(4)


def restored(states, side):
    """States float32 `[H, T, D]` after quantization with one side of a fit."""
    back = fake_quantize(states[None], side.transform, side.inverse, side.mean, side.centroids, side.scale)
    return back[0]


def relative_error(states, side):
    return ((restored(states, side) - states).square().sum() / states.square().sum()).item()


@pytest.mark.parametrize(("with_queries", "value_dim"), [(False, 16), (True, 16), (True, 24)])
def test_it_fits_the_prompt(with_queries, value_dim):
    keys, values, queries = torch.randn(2, 400, 16), torch.randn(2, 400, value_dim), torch.randn(4, 400, 16)
    key, value = fit_online(keys, values, *FORMATS, queries if with_queries else None, residual_length=16)
    # Gaussian sub-vectors of 4 elements: 0.12 of the energy is left at 8 bits, 0.016 at 16; twice that is a failure.
    assert relative_error(keys, key) < 0.24
    assert relative_error(values, value) < 0.032


def test_it_repeats_itself():
    keys, values = torch.randn(2, 60, 16), torch.randn(2, 60, 16)
    first, second = (fit_online(keys, values, *FORMATS) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_few_tokens_leave_the_data_free_codebook(tokens):
    """A fit to a few tokens serves others of the same distribution nearly as well as none knows better."""
    generator = torch.Generator().manual_seed(0)
    states = 7 * torch.randn(2, 2000, 16, generator=generator)
    key, _ = fit_online(states[:, :tokens], states[:, :tokens], *FORMATS)
    # A point in 4 dimensions whose scale is off by a factor of two leaves 0.3 of the energy; 0 centroids leave 1.
    assert relative_error(states[:, 100:], key) < 0.6


def test_errors_go_where_queries_do_not_look():
    """Queries along one axis: keys are stored exactly along it, and values of tokens nobody attends to less so."""
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(1, 600, 8, generator=generator), torch.randn(1, 600, 8, generator=generator)
    queries = torch.randn(1, 600, 8, generator=generator) * torch.tensor([4.0] + [0.05] * 7)
    seen, blind = (fit_online(keys, values, *FORMATS, own, residual_length=16)[0] for own in (queries, None))
    errors = [(restored(keys, side) - keys)[..., 0].square().mean() for side in (seen, blind)]
    assert errors[0] < 0.5 * errors[1]


def test_costs_are_those_of_the_attentions_output():
    """A small error of one key or value changes the output of plain attention as the costs say."""
    generator = torch.Generator().manual_seed(0)
    tokens, dim, window = 48, 8, 8
    keys, values, queries = (torch.randn(1, tokens, dim, generator=generator, dtype=torch.float64) for _ in range(3))

    def output(keys, values):
        scores = queries @ keys.transpose(1, 2) * dim**-0.5
        return scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), float("-inf")).softmax(-1) @ values

    moment, key_weights, value_weights = attention_costs(
        queries.float(), keys.float(), values.float(), residual_length=window
    )
    changed = []
    for token in range(0, tokens - window, 5):
        other, error = keys.clone(), 1e-5 * torch.randn(dim, generator=generator, dtype=torch.float64)
        other[0, token] += error
        change = (output(other, values) - output(keys, values))[0, token + window :]
        changed.append((token, change.square().sum().item() / error.square().sum().item()))
    cost = torch.tensor([value for _, value in changed]).double()
    weights = key_weights[0, [token for token, _ in changed]].double()
    # The weights are the costs' roots averaged over directions: the order agrees, not every number.
    assert torch.corrcoef(torch.stack([cost.log(), weights.log()]))[0, 1] > 0.6
    assert torch.linalg.eigvalsh(moment[0]).min() > -1e-4 * moment.abs().max()
    assert value_weights.shape == (1, tokens)


def test_a_long_prompt_is_looked_at_in_parts(monkeypatch):
    """Its last tokens, and as many of the earlier ones; heads are taken in parts where their scores would not fit."""
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(4, 400, 16, generator=generator) for _ in range(2))
    queries = torch.randn(8, 400, 16, generator=generator)
    whole = attention_costs(queries, keys, values, 16)
    monkeypatch.setattr(online_fit, "_SCORES", 1)
    for one, other in zip(whole, attention_costs(queries, keys, values, 16), strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setattr(online_fit, "LAST_TOKENS", 64)
    key, value = fit_online(keys, values, *FORMATS, queries, residual_length=16)
    assert relative_error(keys, key) < 0.24
    assert relative_error(values, value) < 0.032


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(ConfigError, match="no token"):
        fit_online(torch.randn(2, 0, 16), torch.randn(2, 0, 16), *FORMATS)
