# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""smooth_scale.py: the paper's scale, the query-aware one, and when a mean is subtracted."""

import pytest
import torch

from vecinfer_hf.errors import ConfigError
from vecinfer_hf.quantization.smooth_scale import key_statistics


def statistics(keys, recipe, queries=None):
    moment = torch.eye(16).expand(2, 16, 16) if queries is None else queries.transpose(1, 2) @ queries / keys.shape[1]
    return key_statistics(keys, keys.abs().amax(1), moment, recipe)


def test_the_papers_scale():
    keys = torch.randn(2, 500, 16)
    mean, scale = statistics(keys, "paper")
    assert mean is None
    assert torch.equal(scale, keys.abs().amax(1).sqrt())


def test_the_query_scale_balances_keys_and_queries():
    keys = torch.randn(2, 5000, 16) * torch.linspace(0.1, 10, 16)
    queries = torch.randn(2, 5000, 16) * torch.linspace(3, 0.2, 16)
    mean, scale = statistics(keys, "query", queries)
    assert mean is None
    torch.testing.assert_close(
        (keys / scale.unsqueeze(1)).square().mean(1), (queries * scale.unsqueeze(1)).square().mean(1)
    )


def test_keys_with_a_large_offset_are_centred():
    keys = torch.randn(2, 3000, 16)
    keys[:, :, 3] += 100
    mean, _ = statistics(keys, "query")
    # The mean of 3000 unit normals is within 4 standard deviations of the offset.
    torch.testing.assert_close(mean[:, 3], torch.full((2,), 100.0), rtol=0, atol=4 / 3000**0.5)
    assert statistics(keys, "paper")[0] is None


@pytest.mark.parametrize("recipe", ["query", "paper"])
def test_channels_that_are_always_zero_have_a_scale(recipe):
    keys = torch.randn(2, 100, 16)
    keys[..., 5] = 0
    keys[1] = 0
    _, scale = statistics(keys, recipe, torch.zeros(2, 100, 16))
    assert (scale > 0).all()
    assert torch.isfinite(1 / scale).all()


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="recipe is 'best'"):
        statistics(torch.randn(2, 10, 16), "best")
