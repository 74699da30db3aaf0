# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""fake_quant.py: the trainable way there and back equals the plain one, and the gradient passes straight through."""

import pytest
import torch
from tiny_codebooks import random_layer

from vecinfer_hf.quantization.fake_quant import FakeQuantizer, codes_to_states, fake_quantize, states_to_codes
from vecinfer_hf.quantization.quantizer import dequantize, quantize
from vecinfer_hf.quantization.transforms import hadamard_matrix


KINDS = [("smooth_scale", False), ("smooth_scale", True), ("matrix", True), (None, False)]


def side(kind, mean, bits="d4b8x2"):
    """Transform, inverse, mean, centroids and scale of one side, head size 16, 2 heads."""
    layer = random_layer(2, 16, bits, bits, kind=kind or "matrix", value_kind=kind, mean=mean)
    return (
        layer.value_transform,
        layer.output_transform,
        layer.value_mean,
        layer.value_centroids,
        layer.value_centroid_scale,
    )


@pytest.mark.parametrize(("kind", "mean"), KINDS)
def test_states_are_moved_to_the_centroids_and_stay_there(kind, mean):
    transform, inverse, shift, *centroids = side(kind, mean)
    states = torch.randn(2, 2, 9, 16)
    codes = states_to_codes(states, transform, shift, *centroids)
    assert codes.shape == (2, 2, 9, 2, 4)
    restored = codes_to_states(codes, inverse, shift, *centroids)
    assert torch.equal(restored, fake_quantize(states, transform, inverse, shift, *centroids))
    # By hand, in float64 and with a dense matrix for either kind of transform.
    matrix, offset = torch.eye(16).double().expand(2, 16, 16), torch.zeros(2, 1, 16).double()
    if kind is not None:
        matrix = (transform if kind == "matrix" else torch.diag_embed(transform) @ hadamard_matrix(16)).double()
    if shift is not None:
        offset = shift.double().unsqueeze(1)
    vectors = (states.double() - offset) @ matrix
    moved = dequantize(quantize(vectors.float(), *centroids), *centroids).double()
    expected = moved @ torch.linalg.inv(matrix) + offset
    # Two float32 products of 16 terms with a transform of condition below 3 (tiny_codebooks).
    torch.testing.assert_close(restored.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("kind", "mean"), KINDS)
def test_the_trainable_one_equals_the_plain_one(kind, mean, trained):
    transform, inverse, shift, centroids, scale = side(kind, mean)
    # As calibration stores them, the largest centroid of a head is 127; others would be rounded anew in training.
    centroids[:, 0, 0, 0] = 127
    states = torch.randn(2, 2, 40, 16)
    module = FakeQuantizer(transform, shift, centroids, scale).requires_grad_(trained)
    expected = fake_quantize(states, transform, inverse, shift, centroids, scale)
    torch.testing.assert_close(module(states), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "mean"), KINDS)
def test_the_parts_are_what_went_in(kind, mean):
    transform, inverse, shift, centroids, scale = side(kind, mean)
    centroids[:, 0, 0, 0] = 127
    parts = FakeQuantizer(transform, shift, centroids, scale).parts()
    assert torch.equal(parts[3], centroids)
    if kind == "matrix":
        # Rounded to 11 bits, as in the file; the inverse is that of the rounded matrix.
        assert torch.equal(parts[1], transform.half().float())
        torch.testing.assert_close(parts[1] @ parts[2], torch.eye(16).expand(2, 16, 16), rtol=0, atol=1e-5)
    for found, given in zip((parts[0], parts[1], parts[2], parts[4]), (shift, transform, inverse, scale), strict=True):
        if given is not None:
            torch.testing.assert_close(found, given, rtol=2e-3, atol=2e-3)
        assert (found is None) == (given is None)


def test_the_gradient_passes_straight_through_to_the_states():
    transform, _, shift, *centroids = side("matrix", True)
    states = torch.randn(1, 2, 5, 16, requires_grad=True)
    FakeQuantizer(transform, shift, *centroids)(states).sum().backward()
    assert torch.equal(states.grad, torch.ones_like(states))


@pytest.mark.parametrize(("kind", "mean"), KINDS)
def test_centroids_that_are_used_and_the_mean_have_gradients(kind, mean):
    transform, _, shift, *centroids = side(kind, mean, "d4b8")
    centroids[0][:, 0, 0, 0] = 127  # largest, so that rounding changes nothing
    module = FakeQuantizer(transform, shift, *centroids)
    states, direction = torch.randn(1, 2, 30, 16), torch.randn(1, 2, 30, 16)
    (module(states) * direction).sum().backward()
    own, codes = module.centroids.grad, states_to_codes(states, transform, shift, *centroids)
    used = torch.zeros(own.shape[:3], dtype=torch.bool)
    for head in range(2):
        used[head, 0, codes[:, head].flatten().long()] = True
    # Only centroids that some code names have a gradient.
    assert (own[~used] == 0).all()
    assert (own[used].abs().amax(-1) > 0).all()
    if mean:
        # The mean has a gradient only where it is added back: the sum of the directions.
        expected = direction.sum((0, 2)) * module.mean_unit
        torch.testing.assert_close(module.mean_shift.grad, expected, rtol=1e-4, atol=1e-4)
