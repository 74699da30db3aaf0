# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""online_fit.py: a codebook of one prompt fits the prompt, with and without queries."""

import pytest
import torch

from vecinfer_hf.errors import ConfigError
from vecinfer_hf.quantization.fake_quant import fake_quantize
from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.online_fit import fit_online


FORMATS = parse_format(2), parse_format(4)


@pytest.mark.parametrize(("with_queries", "value_dim"), [(False, 16), (True, 16), (True, 24)])
def test_it_fits_the_prompt(with_queries, value_dim):
    keys, values, queries = torch.randn(2, 2, 200, 16), torch.randn(2, 2, 200, value_dim), torch.randn(2, 4, 200, 16)
    fit = fit_online(keys, values, *FORMATS, queries if with_queries else None)
    scale, centroids = fit.smooth_scale, (fit.key_centroids, fit.key_centroid_scale)
    restored = fake_quantize(keys, 1 / scale, scale, fit.key_mean, *centroids)
    # Gaussian sub-vectors of 4 elements with 8 bits: 0.12 of the energy was measured; twice that is a failure.
    assert (restored - keys).square().mean() < 0.24
    restored = fake_quantize(values, None, None, None, fit.value_centroids, fit.value_centroid_scale)
    assert (restored - values).square().mean() < 0.02


def test_it_repeats_itself_and_leaves_sinks_out():
    keys, values = torch.randn(1, 2, 60, 16), torch.randn(1, 2, 60, 16)
    loud = keys.clone()
    loud[:, :, :4] = 1e4
    first, second = (fit_online(own, values, *FORMATS) for own in (keys, loud))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = fit_online(keys, values, *FORMATS, seed=1)
    assert not torch.equal(other.key_centroids, first.key_centroids)


def test_a_prompt_of_sinks_alone_is_refused():
    with pytest.raises(ConfigError, match="4 tokens, none after 4 sinks"):
        fit_online(torch.randn(1, 2, 4, 16), torch.randn(1, 2, 4, 16), *FORMATS)
