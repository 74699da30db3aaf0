# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.benchmarks`: what it fills, what it concludes, and the whole command on a tiny model."""

import json

import pytest
import torch
from tiny_models import tiny_config, tiny_inputs

from examples.benchmarks.__main__ import check_layers, main
from examples.benchmarks.caches import STOCK, STOCK_QUANTIZED, STOCK_STATIC, fill_randomly, vecinfer
from examples.benchmarks.end_to_end import break_even, slope
from examples.benchmarks.measure import Row, measure_decode
from examples.benchmarks.report import markdown, plot, read_json
from vecinfer_hf.evaluation.random_models import random_model
from vecinfer_hf.integration.compat import cache_argument


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return random_model(tiny_config("llama"), torch.float32, CPU)


@pytest.mark.parametrize("kind", [STOCK, STOCK_STATIC, vecinfer(2), vecinfer(2, static=False)], ids=lambda k: k.name)
@pytest.mark.parametrize("tokens", [3, 150, 400])
def test_a_filled_cache_is_one_that_has_seen_the_tokens(model, kind, tokens):
    cache, read = kind.make(model, 420), kind.make(model, 420)
    fill_randomly(cache, model, 2, tokens)
    with torch.no_grad():
        model(tiny_inputs(2, tokens), **cache_argument(read))
        lengths = []
        for each in (cache, read):
            output = model(tiny_inputs(2, 1), attention_mask=torch.ones(2, tokens + 1), **cache_argument(each))
            assert output.logits.isfinite().all()
            lengths.append(int(each.get_seq_length()))
        assert lengths == [tokens + 1] * 2
    for ours, theirs in zip(cache.layers, read.layers, strict=True):
        if kind.bits is not None:
            assert torch.equal(ours.buffers.quantized_lengths, theirs.buffers.quantized_lengths)
            assert [tensor.shape for tensor in ours.buffers[1:7]] == [tensor.shape for tensor in theirs.buffers[1:7]]
        else:
            assert ours.keys.shape == theirs.keys.shape


def test_a_cache_that_is_too_large_is_a_row_that_says_so(model, monkeypatch):
    def too_large(*args, **kwargs):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr("examples.benchmarks.measure.fill_randomly", too_large)
    rows = measure_decode(model, STOCK, [100, 200])
    assert [row.problem for row in rows] == ["out of memory"] * 2
    assert "out of memory" in markdown(rows, "title")


def test_a_peer_that_is_not_installed_is_a_row_and_ours_is_an_error(model, monkeypatch):
    monkeypatch.setattr("examples.benchmarks.caches._installed", lambda module: False)
    row = measure_decode(model, STOCK_QUANTIZED[0], [100])[0]
    assert row.problem == "ImportError: it needs optimum-quanto (pip install optimum-quanto)"

    def missing(*args, **kwargs):
        raise ImportError("install it")

    monkeypatch.setattr("examples.benchmarks.measure.fill_randomly", missing)
    with pytest.raises(ImportError, match="install it"):
        measure_decode(model, vecinfer(2), [100])


def line(name, intercept, gradient, contexts):
    return [Row("decode", name, 1, n, seconds=intercept + gradient * n) for n in contexts]


def test_break_even_and_slope():
    contexts = [1000, 2000, 4000, 8000]
    rows = line("ours", 5.0, 1e-4, contexts) + line("theirs", 4.0, 5e-4, contexts)
    # 5 + x / 10000 = 4 + 5 x / 10000 at x = 2500; both are straight, so interpolation is exact.
    assert break_even(rows, "ours", "theirs") == pytest.approx(2500)
    assert break_even(rows, "theirs", "ours") is None
    assert break_even(line("ours", 1.0, 0, contexts) + line("theirs", 2.0, 0, contexts), "ours", "theirs") == 0
    assert slope(rows, "theirs") == pytest.approx(5e-4)
    assert slope(rows[:1], "ours") is None


def test_conclusions_are_in_the_units_they_name():
    # 5 ms and 7 us for every further 1,000 tokens.
    text = markdown(line("vecinfer 2 bits", 5e-3, 7e-9, [1000, 2000]) + line("stock", 9e-3, 0, [1000, 2000]), "title")
    assert "| vecinfer 2 bits | 5.01 | 5.01 |" in text
    assert "1,000 tokens of context cost vecinfer 2 bits 7.00 us per token" in text
    assert "less time per token than stock at every length measured" in text


def test_a_problem_takes_no_part_in_conclusions():
    rows = line("ours", 1.0, 0, [10, 20]) + line("theirs", 2.0, 0, [10])
    rows.append(Row("decode", "theirs", 1, 20, problem="out of memory"))
    assert break_even(rows, "ours", "theirs") == 0
    assert slope(rows, "theirs") is None


def test_a_shape_with_sliding_layers_is_refused():
    with pytest.raises(ValueError, match="full attention in 1 of 2 layers"):
        check_layers(tiny_config("gemma3"), "gemma")


def test_the_command(tmp_path, capsys):
    tiny_config("llama").save_pretrained(tmp_path / "shape")
    kept = tmp_path / "rows.json"
    lengths = ["--contexts", "100,200", "--long-contexts", "9000", "--prompts", "150", "--batch-context", "0"]
    with pytest.raises(SystemExit) as stopped:
        main(
            ["--shape", str(tmp_path / "shape"), "--device", "cpu", "--bits", "2"]
            + [*lengths, "--json-file", str(kept)]
        )
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "| ms per token, batch 1 | 100 | 200 | 9,000 |" in printed
    assert "| vecinfer 2 bits | 9,000 |" in printed
    rows, about = read_json(kept)
    peers = {kind.name for kind in STOCK_QUANTIZED}
    assert all(row.seconds > 0 or "rror: " in row.problem for row in rows if row.cache in peers)
    rows = [row for row in rows if row.cache not in peers]
    assert {(row.what, row.cache, row.context) for row in rows} == {
        *(("decode", "vecinfer 2 bits", n) for n in (100, 200, 9000)),
        ("chunk", "vecinfer 2 bits", 9000),
        *(("decode", name, n) for name in ("stock", "stock static") for n in (100, 200)),
        *(("prefill", name, 150) for name in ("vecinfer 2 bits", "stock", "vecinfer 2 bits, chunks of 8192")),
    }
    assert all(row.seconds > 0 and row.cache_bytes > 0 for row in rows)
    assert about["device"] == "cpu"
    assert json.loads(kept.read_text())["rows"][0]["tokens_per_second"] > 0
    with pytest.raises(SystemExit) as stopped:
        main(["--show", str(kept)])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == printed


def test_the_plot_shows_every_cache_and_where_ours_wins(tmp_path):
    contexts = [1000, 2000, 4000, 8000]
    rows = line("vecinfer 2 bits", 5e-3, 1e-7, contexts) + line("stock", 4e-3, 5e-7, contexts)
    plot(rows, "a title", tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    # Text becomes glyphs in SVG, but matplotlib keeps it in comments.
    assert all(f"<!-- {text} -->" in drawn for text in ("a title", "stock", "vecinfer 2 bits", "faster than stock"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_allocated(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "--device cpu insists" in capsys.readouterr().err
