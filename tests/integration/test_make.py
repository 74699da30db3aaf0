# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""make.py: "auto" makes a codebook where it finds none, once, keeps it, and copes where it cannot be kept."""

import errno
import logging
import threading

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_config, tiny_inputs, tiny_model

from vecinfer_hf import CodebookError, ConfigError, VecInferCache, VecInferConfig, enable
from vecinfer_hf.codebook.fingerprint import weights_fingerprint
from vecinfer_hf.codebook.kept import kept_codebooks
from vecinfer_hf.errors import NoCodebookError
from vecinfer_hf.integration import make as module
from vecinfer_hf.integration.resolve import forget_codebooks, resolve


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("VECINFER_CODEBOOKS", str(tmp_path / "made here"))
    monkeypatch.setenv("VECINFER_MAKE_CODEBOOK", "1")
    forget_codebooks()
    return tmp_path / "made here"


@pytest.fixture
def made(monkeypatch):
    """Replace the making, which has tests of its own; the value lists what was made: (fingerprint, options)."""
    calls = []

    def make_codebook(model, **options):
        calls.append((weights_fingerprint(model), options))
        bits = {name: options[name] or 2 for name in ("key_bits", "value_bits")}
        codebook = random_codebook(model.config, **bits)
        codebook.weights_fingerprint = calls[-1][0]
        return codebook

    monkeypatch.setattr(module, "make_codebook", make_codebook)
    return calls


@pytest.fixture
def warnings():
    """What the package's loggers say."""
    messages = []

    class Keep(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    handler, logger = Keep(), logging.getLogger("vecinfer_hf")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_a_model_without_a_codebook_generates_and_makes_it_once(made):
    model = enable(tiny_model("llama"))
    assert model.generate(tiny_inputs(), max_new_tokens=3).shape == (1, 43)
    enable(tiny_model("llama"))
    tiny_model("llama").generate(tiny_inputs(), max_new_tokens=2, cache_implementation="vecinfer")
    assert len(made) == 1
    assert model.generation_config.cache_config == {"backend": "vecinfer"}  # no path of this machine


def test_the_next_process_finds_it(made):
    enable(tiny_model("llama"))
    forget_codebooks()
    assert resolve(tiny_model("llama"))[0].weights_fingerprint == made[0][0]
    assert len(made) == 1


def test_bits_and_budget_shape_it(made):
    resolve(tiny_model("llama"), key_bits=4, value_bits="d4b8", budget=7)
    resolve(tiny_model("llama"))
    assert [options for _, options in made] == [
        {"key_bits": 4, "value_bits": "d4b8", "budget": 7},
        {"key_bits": None, "value_bits": None, "budget": None},
    ]
    assert sorted(kept.bits for kept in kept_codebooks()) == ["2bit", "d4b8x2-d4b8"]
    forget_codebooks()
    assert resolve(tiny_model("llama"), key_bits=4)[0].mean_bits.key_bits == 4
    assert len(made) == 2


@pytest.mark.parametrize("change", ["in place", "other model"])
def test_other_weights_under_the_same_name_get_their_own(made, change):
    model = tiny_model("llama")
    enable(model)
    if change == "in place":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    else:
        model = tiny_model("llama", seed=1)
    enable(model)
    assert len({fingerprint for fingerprint, _ in made}) == len(made) == 2


@pytest.mark.parametrize(("value", "make"), [("0", None), ("1", False)])
def test_making_can_be_forbidden(made, monkeypatch, value, make):
    monkeypatch.setenv("VECINFER_MAKE_CODEBOOK", value)
    with pytest.raises(NoCodebookError, match="make=True"):
        enable(tiny_model("llama"), make=make)
    assert not made


def test_an_option_wins_over_the_environment(made, monkeypatch):
    monkeypatch.setenv("VECINFER_MAKE_CODEBOOK", "0")
    enable(tiny_model("llama"), make=True)
    assert len(made) == 1


def test_a_strange_value_in_the_environment_is_refused(made, monkeypatch):
    monkeypatch.setenv("VECINFER_MAKE_CODEBOOK", "perhaps")
    with pytest.raises(ConfigError, match="VECINFER_MAKE_CODEBOOK='perhaps'"):
        enable(tiny_model("llama"))


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), "60", True])
def test_a_budget_is_a_number_of_seconds(budget):
    with pytest.raises(ConfigError, match="budget is"):
        VecInferConfig(budget=budget)


def test_a_config_alone_has_no_weights_to_make_one_from(made):
    with pytest.raises(NoCodebookError, match="give the model instead of its config"):
        VecInferCache(tiny_config("llama"))


def test_a_model_over_several_processes_is_refused(made, monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(type(model), "tp_size", 2)
    with pytest.raises(ConfigError, match="tensor parallelism"):
        enable(model)


def test_of_two_at_once_one_makes_it(made, monkeypatch, warnings):
    """Two threads stand for two processes: the lock is of the file. test_make_processes.py has two processes."""
    make, started, go_on = module.make_codebook, threading.Event(), threading.Event()
    monkeypatch.setattr(module, "_tell_waiting", lambda kept: go_on.set())

    def slow(model, **options):
        started.set()
        assert go_on.wait(60)
        return make(model, **options)

    monkeypatch.setattr(module, "make_codebook", slow)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(module.made_codebook(tiny_model("llama"), VecInferConfig())))
        for _ in range(2)
    ]
    threads[0].start()
    assert started.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 1
    assert len(found) == 2


@pytest.mark.parametrize("fault", ["full disk", "no directory"])
def test_what_cannot_be_kept_is_used_and_said(made, monkeypatch, warnings, root, fault):
    if fault == "full disk":

        def keep(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module, "keep", keep)
    else:
        root.write_text("a file where the directory should be")
    model = enable(tiny_model("llama"))
    assert model.generate(tiny_inputs(), max_new_tokens=2).shape == (1, 42)
    assert len(made) == 1
    assert any("could not be kept" in message for message in warnings)


def test_a_damaged_one_is_made_anew(made, warnings):
    enable(tiny_model("llama"))
    (kept_codebooks()[0].directory / "codebook.safetensors").write_bytes(b"no tensors")
    forget_codebooks()
    enable(tiny_model("llama"))
    assert len(made) == 2
    forget_codebooks()
    enable(tiny_model("llama"))
    assert len(made) == 2


def test_a_named_codebook_for_other_weights_is_warned_about(tmp_path, warnings):
    codebook = random_codebook(tiny_config("llama"))
    codebook.weights_fingerprint = weights_fingerprint(tiny_model("llama", seed=1))
    codebook.save_pretrained(tmp_path / "named")
    enable(tiny_model("llama", seed=1), tmp_path / "named")
    assert not any("other weights" in message for message in warnings)
    enable(tiny_model("llama"), tmp_path / "named")
    assert any("other weights" in message for message in warnings)


@pytest.mark.parametrize("quantized", ["no", "the model", "the codebook's"])
def test_a_found_codebook_for_other_weights_is_passed_over(made, tmp_path, monkeypatch, quantized):
    """One of the original weights serves quantized ones, and the other way round."""
    from vecinfer_hf.hub import search
    from vecinfer_hf.hub.local_places import FoundCodebook

    model = tiny_model("llama")
    model.config._name_or_path = "x/tiny-llama"
    codebook = random_codebook(model.config)
    codebook.weights_fingerprint = "0" * 64
    if quantized == "the codebook's":
        codebook.provenance["quantization"] = "gptq"
    codebook.save_pretrained(tmp_path / "found")
    if quantized == "the model":
        model.config.quantization_config = {"quant_method": "gptq"}

    def candidates(*args, **options):
        yield FoundCodebook(str(tmp_path / "found"), "shipped", True, "a test says so")
        raise NoCodebookError("no other")

    monkeypatch.setattr(search, "candidates", candidates)
    found = resolve(model)[0]
    assert (found.weights_fingerprint == "0" * 64) == (quantized != "no")
    assert len(made) == (quantized == "no")


def test_nothing_is_made_for_a_name_that_is_wrong(made):
    with pytest.raises(CodebookError, match="There is no directory"):
        enable(tiny_model("llama"), "./not-there")
    assert not made
