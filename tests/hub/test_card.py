# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The card of a codebook: metadata the Hub searches by, numbers as the codebook has them, examples that parse."""

import ast
import re
import sys

import huggingface_hub
import pytest
from hub_codebooks import tiny_codebook
from hub_store import parse_card
from huggingface_hub import ModelCard

from vecinfer_hf import CalibrationConfig
from vecinfer_hf.codebook.codebook import LayerError
from vecinfer_hf.hub import card as model_card
from vecinfer_hf.hub.card import codebook_card, draw_errors, repository_card
from vecinfer_hf.hub.metadata import describe


pytest_plugins = ["hub_fixtures"]


def test_metadata_make_it_findable():
    data = ModelCard(codebook_card(tiny_codebook(bits=1.5), repo_id="me/book")).data
    assert data.base_model == "org/tiny-llama"
    assert data.base_model_relation == "quantized"
    assert data.library_name == "vecinfer"
    assert data.license == "apache-2.0"
    assert {"vecinfer", "kv-cache", "1.5-bit"} <= set(data.tags)
    assert data.vecinfer == [
        {
            "subfolder": "",
            "base_model": "org/tiny-llama",
            "bits_per_element": 1.5,
            "key_bits": 1.5,
            "value_bits": 1.5,
            "recipe": "default",
        }
    ]


@pytest.mark.hub
@pytest.mark.skipif(huggingface_hub.__version__ < "2", reason="huggingface_hub 1.x asks huggingface.co only")
def test_it_passes_the_card_check_of_the_hub(hub, warm):
    good = codebook_card(tiny_codebook(), repo_id="me/book")
    assert warm.call("validate_card", good) == {}
    bad = warm.call("validate_card", good.replace("base_model: org/tiny-llama", "base_model: a tiny llama"))
    assert "a tiny llama" in bad["error"]
    entries = {"2bit": describe(tiny_codebook()), "4bit": describe(tiny_codebook(bits=4))}
    assert warm.call("validate_card", repository_card(entries, "me/books")) == {}


@pytest.mark.parametrize("name", ["", "/home/me/model", "a-directory", None, "a/b/c"])
def test_a_model_without_a_hub_name_claims_no_base_model(name):
    card = codebook_card(tiny_codebook(name=name))
    assert "base_model" not in parse_card(card)
    assert "base_model_relation" not in parse_card(card)


def test_numbers_are_the_codebook_s():
    codebook = tiny_codebook(bits=4)
    text = codebook_card(codebook)
    # 2 layers, 2 heads: 16 key elements at 4 bits, and 16 value elements in planes padded to 8 sub-vectors of 4.
    assert f"| bytes per coded token | {2 * 2 * (16 * 4 + 8 * 4 * 4) // 8} |" in text
    assert "| bits per key element | 4 |" in text
    assert f"| this codebook | {codebook.nbytes / 1e6:.2f} MB |" in text
    assert "| held out | 4096 | 12.5 | 12.9 | 1.032 |" in text
    assert codebook.errors == [LayerError(0, 0.05, 0.08), LayerError(1, 0.05 + 0.01, 0.08)]
    for error in codebook.errors:
        assert re.search(rf"\| {error.layer} \| {error.key:.5g} \| █+ \| {error.value:.5g} \| █{{24}} \|", text)


def test_nothing_measured_is_said_to_be_nothing():
    codebook = tiny_codebook()
    codebook.metrics, codebook.provenance = {}, {}
    text = codebook_card(codebook)
    assert "Not measured." in text
    assert "error per layer" not in text.lower()
    assert "license" not in parse_card(text)


def test_the_options_of_the_calibration_that_are_not_default():
    text = codebook_card(tiny_codebook(bits=4, recipe="paper", num_tokens=3, sink_length=2))
    options = text.split("| CalibrationConfig |  |\n| --- | --- |\n")[1].split("\n\n")[0]
    assert options.splitlines() == [
        "| key_bits | 4 |", "| value_bits | 4 |", "| recipe | paper |", "| num_tokens | 3 |", "| sink_length | 2 |",
    ]  # fmt: skip
    for name in ("recipe", "seed", "sequence"):
        assert text.count(f"| {name} ") <= 1, "a fact that stands there twice"
    assert "| (all options) | default |" in codebook_card(tiny_codebook())
    layered = tiny_codebook()
    layered.config = CalibrationConfig(layer_bits=[[2, 2], ["d4b8", 2]])
    assert "| layer_bits | 2, 2; d4b8, 2 |" in codebook_card(layered)


@pytest.mark.parametrize("name", ['a"); import os; os.abort() #', "a```\n# b", "<b>\\", "a|b", "\u65e5\u672c"])
def test_a_model_s_name_is_no_code(name):
    """A directory may have any name; in the example it is a string, elsewhere it stays on its line."""
    codebook = tiny_codebook(name=name)
    text = codebook_card(codebook)
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    named = [call.args[0].value for call in calls if ast.unparse(call.func).endswith("from_pretrained")]
    assert named == [name.replace("`", "")] * 2
    assert text.count("\n# ") == 1


def test_text_from_outside_stays_in_its_cell():
    codebook = tiny_codebook()
    codebook.provenance["source"] = "a | b\n# heading"
    assert "| source | a \\| b # heading |" in codebook_card(codebook)


@pytest.mark.parametrize("options", [{}, {"repo_id": "me/book"}, {"repo_id": "me/book", "subfolder": "2bit"}])
def test_the_example_names_this_codebook(options):
    [code] = re.findall(r"```python\n(.*?)```", codebook_card(tiny_codebook(), **options), re.DOTALL)
    calls = {ast.unparse(node.func): node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)}
    named = {keyword.arg: keyword.value.value for keyword in calls["VecInferConfig"].keywords}
    assert named["codebook"] == options.get("repo_id", "path/to/this/directory")
    assert named.get("subfolder") == options.get("subfolder")


def test_the_plot_needs_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw_errors(tiny_codebook(), tmp_path / "plot.png") is False
    assert not (tmp_path / "plot.png").exists()


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    nothing = tiny_codebook()
    nothing.provenance = {}
    assert draw_errors(nothing, tmp_path / "plot.png") is False
    assert draw_errors(tiny_codebook(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert f"]({model_card.ERROR_PLOT})" in codebook_card(tiny_codebook(), with_plot=True)
