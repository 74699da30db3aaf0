# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""allocate.py: the solver finds the best choice, sides are mixed rightly, and the prediction is of the right size."""

import itertools

import pytest
import torch
from tiny_codebooks import random_layer
from tiny_models import tiny_inputs, tiny_model

from vecinfer_hf.calibration import allocate_bits, measure_sensitivity, predicted_sensitivity
from vecinfer_hf.calibration.allocate import mix_sides
from vecinfer_hf.calibration.fit import fit_layers
from vecinfer_hf.calibration.gradients import record_gradients
from vecinfer_hf.errors import ConfigError
from vecinfer_hf.quantization.formats import implied_format, parse_format


OPTIONS = {"sink_length": 2, "residual_length": 8}


def test_allocation_is_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(2, 2, 3, generator=generator).sort(-1, descending=True).values
    rows = [
        {"layer": layer, "side": side, "bits": bits, "kl": costs[layer, s, b].item()}
        for layer, (s, side), (b, bits) in itertools.product(
            range(2), enumerate(("key", "value")), enumerate((1, 2, 4))
        )
    ]

    def cost(choice):
        return sum(costs[place // 2, place % 2, (1, 2, 4).index(bits)].item() for place, bits in enumerate(choice))

    for average in (1, 1.5, 2, 2.75, 4):
        allowed = [c for c in itertools.product((1, 2, 4), repeat=4) if sum(c) <= 4 * average]
        chosen = [bits for pair in allocate_bits(rows, average) for bits in pair]
        assert sum(chosen) <= 4 * average
        assert cost(chosen) == pytest.approx(min(map(cost, allowed)))
    with pytest.raises(ConfigError, match=r"0\.5 bits is below the least, 1"):
        allocate_bits(rows, 0.5)


def test_sides_are_mixed():
    candidates = {bits: {index: random_layer(2, 16, bits, bits, seed=index) for index in (0, 3)} for bits in (1, 2, 4)}
    mixed = mix_sides(candidates, [[4, 1], [1, 2]])
    for index, (key_bits, value_bits) in {0: (4, 1), 3: (1, 2)}.items():
        assert mixed[index].key_centroids is candidates[key_bits][index].key_centroids
        assert mixed[index].key_transform is candidates[key_bits][index].key_transform
        assert mixed[index].value_centroid_scale is candidates[value_bits][index].value_centroid_scale
        assert implied_format(mixed[index].value_centroids.shape) == parse_format(value_bits)


def test_the_default_recipe_loses_less_than_the_papers_and_is_predicted():
    model = tiny_model()
    text, held_out = tiny_inputs(16, 100, seed=1), tiny_inputs(8, 100, seed=2)
    states = record_gradients(model, text, [0, 1], **OPTIONS)
    formats = dict.fromkeys((0, 1), (parse_format(2), parse_format(2)))
    losses = {}
    for recipe in ("default", "paper"):
        layers = fit_layers(states, formats, recipe=recipe, num_iterations=6)
        rows = measure_sensitivity(model, {2: layers}, held_out, batch_size=8, **OPTIONS)
        losses[recipe] = sum(row["kl"] for row in rows)
        if recipe == "default":
            predicted = predicted_sensitivity(states, {2: layers})
            assert [(row["layer"], row["side"], row["bits"]) for row in predicted] == [
                (row["layer"], row["side"], row["bits"]) for row in rows
            ]
            # Second order and independent errors: right to a factor of two on a random model.
            assert 0.5 < sum(row["kl"] for row in predicted) / losses[recipe] < 2
    assert losses["default"] < losses["paper"]
