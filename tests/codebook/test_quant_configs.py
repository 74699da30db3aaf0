# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The shipped codebooks: complete, small, honest about their text, and as good as their cards say."""

import json
from pathlib import Path

import pytest

from vecinfer_hf import Codebook
from vecinfer_hf.calibration import quantization_loss
from vecinfer_hf.calibration.fake_quantization import LayerFakeQuantizer
from vecinfer_hf.calibration.text import load_text
from vecinfer_hf.codebook.codebook import shipped_codebooks
from vecinfer_hf.evaluation import text_windows


ROOT = shipped_codebooks()
NAMES = sorted(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/*/config.json"))
# Perplexity ratios that the package promises at 2048 tokens of a text from another source, used as the codebook says.
LIMITS = {4.0: 1.01, 2.0: 1.012, 1.5: 1.025, 1.0: 1.06}


def test_the_four_widths_are_there_and_small():
    expected = {f"SmolLM2-135M-Instruct/{bits}bit" for bits in ("4", "2", "1.5", "1")}
    assert expected <= set(NAMES)
    size = sum(path.stat().st_size for path in (ROOT / "SmolLM2-135M-Instruct").rglob("*") if path.is_file())
    assert size < 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_and_is_what_its_name_says(name):
    codebook = Codebook.from_pretrained(name)
    assert codebook.bits_per_element == pytest.approx(float(Path(name).name.removesuffix("bit")), abs=0.02)
    assert codebook.config.bits_per_element == codebook.bits_per_element
    assert codebook.identity["quantized_layers"] == list(codebook.layers)
    assert codebook.identity["name"].rpartition("/")[2] == Path(name).parent.name
    assert "sessions" not in json.dumps(codebook.provenance)


@pytest.mark.parametrize("name", NAMES)
def test_each_names_its_text_and_holds_persuasion_and_wiki_out(name):
    provenance = Codebook.from_pretrained(name).provenance
    texts = {text["name"]: text for text in provenance["texts"]}
    assert texts
    assert not {"austen/persuasion", "wiki"} & set(texts)
    assert all(len(text["sha256"]) == 64 for text in texts.values())
    assert len(provenance["errors"]) == len(Codebook.from_pretrained(name).layers)


@pytest.mark.parametrize("name", NAMES)
def test_each_card_has_measured_quality(name):
    codebook = Codebook.from_pretrained(name)
    rows = codebook.metrics["quality"]
    assert rows
    card = (ROOT / name / "README.md").read_text(encoding="utf-8")
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{name.split('/')[0]}/{Path(name).name}" in table or Path(name).name in table
    for row in rows:
        assert f"{row['perplexity_ratio']:.5g}" in card
    assert f"{rows[0]['perplexity_ratio']:.4f}" in table
    own_sinks = codebook.config.sink_length
    short = [row for row in rows if row["text"] == "wiki" and row["window_length"] == 2048]
    short = [row for row in short if row.get("sink_length", own_sinks) == own_sinks]
    assert short
    for row in short:
        assert row["perplexity_ratio"] <= LIMITS[codebook.bits_per_element]


# Held out from calibration; the limits are twice the KL divergence per token that was measured on 8 longer windows.
@pytest.mark.parametrize(("name", "limit"), [("2bit", 0.03), pytest.param("4bit", 0.01, marks=pytest.mark.slow)])
def test_quality_on_held_out_text(smollm2, smollm2_tokenizer, name, limit):
    windows = text_windows(smollm2_tokenizer, load_text("persuasion-excerpt"), 400, 1)
    codebook = Codebook.from_pretrained(f"SmolLM2-135M-Instruct/{name}")
    layers = {index: LayerFakeQuantizer(layer) for index, layer in codebook.layers.items()}
    loss = quantization_loss(smollm2, layers, windows, from_start=False)
    assert 0 < loss.kl < limit
