# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The ablation: every row is what its options say, all on the same text, summed up over seeds."""

import random

import pytest
import torch
from tiny_models import tiny_inputs, tiny_model

from examples.research.ablation import Measures, ablation, summary
from examples.research.ablation_rows import ROWS, Row, row_transforms
from examples.research.needles import NeedleSample
from vecinfer_hf.calibration import quantization_loss
from vecinfer_hf.calibration.fake_quantization import LayerFakeQuantizer
from vecinfer_hf.calibration.fit import fit_layers
from vecinfer_hf.calibration.gradients import record_gradients
from vecinfer_hf.calibration.windows import calibration_windows
from vecinfer_hf.quantization.formats import parse_format


class Letters:
    """A tokenizer for the tiny models' 97 tokens."""

    bos_token_id, eos_token_id = None, 3

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) % 97 for letter in text]}


LENGTHS = {"sink_length": 2, "residual_length": 16}
draw = random.Random(0)
MEASURED = tiny_inputs(2, 100, seed=5)
TEXT = "".join(draw.choice("abcdefghij klm\n") for _ in range(2600))


def run(rows, seed=0):
    measures = Measures({"text": MEASURED}, {"needles": [NeedleSample(tiny_inputs(1, 80)[0], 60, 2)]})
    return ablation(
        tiny_model(),
        Letters(),
        {"text": TEXT},
        measures,
        rows=rows,
        num_tokens=2560,
        gradient_tokens=2560,
        num_samples=600,
        sequence_length=512,
        seed=seed,
        **LENGTHS,
    )


def test_rows_differ_by_what_they_turn_on_and_repeat_themselves():
    rows = [row for row in ROWS if row.steps == 0]
    results = run(rows)
    assert [result["name"] for result in results] == [row.name for row in rows]
    kl = {result["name"]: result["text"]["kl"] for result in results}
    assert len(set(kl.values())) == len(rows), "two rows are the same codebook"
    # Where a row is a whole recipe, it is that recipe's codebook.
    windows, _ = calibration_windows(Letters(), {"text": TEXT}, 512, 2560)
    exact = {**LENGTHS, "sink_choice": "first"}
    states = record_gradients(tiny_model(), windows, [0, 1], num_samples=600, max_position=512, **exact)
    for name, recipe in (
        ("paper", "paper"),
        ("paper + query-aware scale", "query"),
        ("loss matrices, weighted", "default"),
    ):
        layers = fit_layers(states, dict.fromkeys((0, 1), (parse_format(2), parse_format(2))), recipe=recipe)
        simulators = {index: LayerFakeQuantizer(layer) for index, layer in layers.items()}
        assert quantization_loss(tiny_model(), simulators, MEASURED, **exact).kl == pytest.approx(kl[name], rel=1e-4)
    assert all(result["needles"]["samples"] == 1 and 0 <= result["needles"]["hits"] <= 1 for result in results)
    for again in run(rows[:2]):
        assert again["text"] == results[[row.name for row in rows].index(again["name"])]["text"]


def test_refinement_reads_the_rows_text_for_its_steps(monkeypatch):
    calls = []

    def refine(model, layers, draw_windows, num_steps, **options):
        calls.append((num_steps, draw_windows(0), options))
        return layers

    monkeypatch.setattr("examples.research.ablation.refine", refine)
    plain, refined = run([Row("paper"), Row("refined", steps=8)])
    assert refined["text"] == plain["text"]
    ((steps, text, options),) = calls
    assert steps == 8
    assert text.shape == (1, 512)
    assert options == {"max_position": 512, "seed": 0, "sink_choice": "first", **LENGTHS}


@pytest.mark.parametrize(("key", "has_mean"), [("paper", False), ("centred", True), ("loss", True)])
def test_transforms_of_a_row(key, has_mean):
    states = record_gradients(tiny_model(), tiny_inputs(2, 100), [0], **LENGTHS)[0]
    own, value = row_transforms(states, 4, Row("row", key=key))
    assert (own.mean is not None) == has_mean
    assert own.transform.dim() == (3 if key == "loss" else 2)
    assert value.transform is None
    if key == "centred":
        torch.testing.assert_close(own.mean, states.keys.float().mean(1))


def test_summary_has_mean_and_spread_over_seeds():
    needles = {"samples": 4, "hits": 3, "stock_hits": 4}
    results = [
        {"name": "paper", "seed": seed, "text": {"windows": 2, "ratio": ratio, "kl": 0.1}, "needles": needles}
        for seed, ratio in enumerate((1.0, 1.2))
    ]
    (line,) = summary(results)
    assert line["seeds"] == 2
    assert line["text ratio"] == {"mean": pytest.approx(1.1), "spread": pytest.approx(0.2 / 2**0.5)}
    assert line["needles hits"] == {"mean": 3, "spread": 0}
    assert list(line) == ["name", "seeds", "text ratio", "text kl", "needles hits", "needles stock_hits"]
    assert summary(results[:1])[0]["text ratio"]["spread"] == 0
