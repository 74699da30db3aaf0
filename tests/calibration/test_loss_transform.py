# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""loss_transform.py: after the transform squared error is the importance, and weights follow what an error costs."""

import pytest
import torch

from vecinfer_hf.calibration.loss_transform import dealt_positions, loss_transform, token_weights


@pytest.mark.parametrize(("dim", "subvector_dim"), [(64, 8), (64, 4), (16, 2), (24, 8), (8, 8)])
def test_axes_are_dealt_out_evenly(dim, subvector_dim):
    positions = dealt_positions(dim, subvector_dim)
    assert torch.equal(positions.sort().values, torch.arange(dim))
    groups = dim // subvector_dim
    # Each round gives every sub-vector one axis; the sums of the ranks differ by less than one round.
    ranks = torch.zeros(groups).index_add_(0, positions // subvector_dim, torch.arange(dim).float())
    assert ranks.max() - ranks.min() < groups


@pytest.mark.parametrize("centred", [False, True])
def test_squared_error_in_the_transformed_space_is_the_importance(centred):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 4000, 16, generator=generator) @ torch.randn(2, 16, 16, generator=generator) + 1
    root = torch.randn(2, 16, 16, generator=generator)
    importance = root @ root.transpose(1, 2)
    mean, transform, inverse = loss_transform(states, importance, 4, centred)
    assert (mean is not None) == centred
    torch.testing.assert_close(transform @ inverse, torch.eye(16).expand(2, 16, 16), rtol=0, atol=1e-4)
    level = importance.diagonal(dim1=-2, dim2=-1).mean(-1).view(-1, 1, 1)
    mixed = 0.9 * importance / level + 0.1 * torch.eye(16)
    # The matrix is rounded to 11 bits, which moves a product of two of its rows by 2^-10 of their lengths at most.
    tolerance = 2**-10 * mixed.diagonal(dim1=-2, dim2=-1).max().item()
    torch.testing.assert_close(transform @ transform.transpose(1, 2), mixed, rtol=0, atol=tolerance)
    vectors = (states - (mean.unsqueeze(1) if centred else 0)) @ transform
    covariance = vectors.transpose(1, 2) @ vectors / 4000
    apart = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    assert apart.abs().max() < 1e-3 * covariance.abs().max()


def test_weights_follow_the_cost_within_bounds():
    gradients = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [1000.0, 0.0]]])
    weights = token_weights(gradients, torch.eye(2).unsqueeze(0))
    assert weights.shape == (1, 4)
    assert weights[0, 3] > weights[0, 1]
    assert weights.min() > 0
    assert torch.equal(token_weights(torch.zeros(1, 3, 2), torch.eye(2).unsqueeze(0)), torch.ones(1, 3))


def test_weights_in_front_of_a_diagonal_transform_and_of_none():
    gradients = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    # An error of one unit in the transformed space is an error of `inverse` units of the channel.
    diagonal = token_weights(gradients, torch.tensor([[4.0, 1.0]]))
    assert diagonal[0, 0] / diagonal[0, 1] == pytest.approx(4.0)
    matrix = token_weights(gradients, torch.diag(torch.tensor([4.0, 1.0])).unsqueeze(0))
    torch.testing.assert_close(diagonal, matrix)
    assert torch.equal(token_weights(gradients, None), torch.ones(1, 2))
