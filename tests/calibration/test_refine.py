# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""refine.py: refinement lowers the loss, repeats itself, and moves every kind of parameter."""

import torch
from calibration_texts import IDS, small_config
from tiny_codebooks import random_layer
from tiny_models import tiny_model

from vecinfer_hf import calibrate
from vecinfer_hf.calibration import quantization_loss, refine
from vecinfer_hf.calibration.fake_quantization import LayerFakeQuantizer


def test_refinement_lowers_the_loss_and_repeats_itself():
    model = tiny_model()
    codebook = calibrate(model, IDS, config=small_config(key_bits=1, value_bits=1, recipe="query"), progress=False)
    # Centroids half as large as they should be: there is something to repair.
    spoilt = {
        index: layer._replace(
            key_centroid_scale=layer.key_centroid_scale / 2, value_centroid_scale=layer.value_centroid_scale / 2
        )
        for index, layer in codebook.layers.items()
    }
    windows = IDS[:960].view(8, 120)
    options = {"sink_length": 2, "residual_length": 8}

    def loss(layers):
        fake = {index: LayerFakeQuantizer(layer) for index, layer in layers.items()}
        return quantization_loss(model, fake, windows, batch_size=8, **options).kl

    refined = [
        refine(model, spoilt, lambda step: windows[step % 8][None], 24, learning_rate=0.4, max_position=500, **options)
        for _ in range(2)
    ]
    assert loss(refined[0]) < 0.9 * loss(spoilt)
    for index in codebook.layers:
        pairs = zip(refined[0][index], refined[1][index], strict=True)
        assert all(a is b is None or torch.equal(a, b) for a, b in pairs)


def test_refinement_stops_after_its_time():
    steps = []
    layers = {0: random_layer(), 1: random_layer(seed=1)}
    refine(tiny_model(), layers, lambda _: IDS[None, :60], 10**6, residual_length=8, max_seconds=0.2,
           progress=steps.append)  # fmt: skip
    assert 1 <= len(steps) < 10**4


def test_full_matrices_and_means_are_refined_with_their_centroids():
    model, layer = tiny_model(), random_layer(kind="matrix", value_kind="matrix", mean=True)
    refined = refine(model, {0: layer}, lambda _: IDS[None, :60], 6, learning_rate=1.0, residual_length=8)[0]
    identity = refined.key_transform.transpose(1, 2) @ refined.query_transform
    torch.testing.assert_close(identity, torch.eye(16).expand(2, 16, 16), rtol=0, atol=1e-4)
    # Stored as float16 without loss. Six steps of at most 0.003 move elements of a matrix of norm 2 by 32 times that.
    assert torch.equal(refined.key_transform.half().float(), refined.key_transform)
    moved = (refined.key_transform - layer.key_transform).abs().max()
    assert 1e-3 < moved < 6 * 0.003 * 32
    assert not torch.equal(refined.key_mean, layer.key_mean)
    before = layer.key_centroids * layer.key_centroid_scale.view(-1, 1, 1, 1)
    after = refined.key_centroids * refined.key_centroid_scale.view(-1, 1, 1, 1)
    # More than a rounding step: centroids did move.
    assert (after - before).abs().max() > layer.key_centroid_scale.max()
