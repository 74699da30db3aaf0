# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""config.py: every rule when a VecInferConfig is made, plain JSON both ways, and what version 0.1 wrote."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from vecinfer_hf import ConfigError, VecInferConfig
from vecinfer_hf.config import LONGEST_WINDOW, read_json, replace_file


CHANGED = {
    "codebook": "someone/model-vecinfer",
    "revision": "main",
    "subfolder": "2bit",
    "trusted_owners": ["someone"],
    "make": False,
    "budget": 30.0,
    "key_bits": 4,
    "value_bits": "d2b8",
    "residual_length": 64,
    "sink_length": 0,
    "sink_choice": "first",
    "static": True,
    "max_cache_len": 4096,
    "ops_backend": "reference",
}
NEEDED = {"max_cache_len": {"static": True}}
"""What an option cannot be set without."""


def test_nothing_is_set_by_default():
    config = VecInferConfig()
    assert set(CHANGED) == {field.name for field in fields(VecInferConfig)} - {"quant_method"}
    assert all(getattr(config, name) is None for name in CHANGED)
    assert config.quant_method == "vecinfer"
    assert config.options() == {}


def test_every_option_survives_json():
    config = VecInferConfig(**CHANGED)
    for dictionary in (config.to_dict(), config.to_diff_dict()):
        assert VecInferConfig.from_dict(json.loads(json.dumps(dictionary))) == config
    assert VecInferConfig.from_dict(json.loads(config.to_json_string())) == config


@pytest.mark.parametrize("name", CHANGED)
def test_a_diff_holds_exactly_what_was_set(name):
    given = {name: CHANGED[name], **NEEDED.get(name, {})}
    config = VecInferConfig(**given)
    assert config.to_diff_dict() == {"quant_method": "vecinfer", **given}
    assert config.options() == given
    assert VecInferConfig().to_diff_dict() == {"quant_method": "vecinfer"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("residual_length", 128), ("sink_length", 4), ("sink_length", 0), ("sink_choice", "small_values"),
     ("static", False), ("ops_backend", "auto"), ("key_bits", 2), ("value_bits", 2), ("trusted_owners", [])],
)  # fmt: skip
def test_an_explicit_value_counts_whatever_the_usual_one_is(name, value):
    config = VecInferConfig(**{name: value})
    assert config.options() == {name: value}
    assert config.cache_config() == {"backend": "vecinfer", name: value}
    assert VecInferConfig.from_cache_config(config.cache_config()) == config


def test_only_the_codebook_may_be_given_without_its_name():
    assert VecInferConfig("name") == VecInferConfig(codebook="name")
    with pytest.raises(TypeError):
        VecInferConfig("name", "main")


def test_a_path_is_the_name_of_a_directory():
    assert VecInferConfig(Path("here") / "there").codebook == str(Path("here") / "there")


def test_changing_what_was_returned_does_not_change_the_config():
    owners = ["someone"]
    config = VecInferConfig(trusted_owners=owners)
    config.to_dict()["trusted_owners"].append("x")
    config.cache_config()["trusted_owners"].append("x")
    owners.append("x")
    assert config.trusted_owners == ["someone"]


def test_cache_config_is_the_form_that_is_safe_on_disk():
    """A backend and no cache_implementation: it still loads where this package is not installed."""
    config = VecInferConfig(**CHANGED)
    assert config.cache_config() == {"backend": "vecinfer", **CHANGED}
    assert VecInferConfig.from_cache_config(json.loads(json.dumps(config.cache_config()))) == config
    assert VecInferConfig().cache_config() == {"backend": "vecinfer"}


def test_from_cache_config_takes_what_generate_may_be_given():
    config = VecInferConfig(sink_length=3)
    given = {"backend": "vecinfer", "sink_length": 3}
    assert VecInferConfig.from_cache_config(config) is config
    assert VecInferConfig.from_cache_config(given) == config
    assert given == {"backend": "vecinfer", "sink_length": 3}
    assert VecInferConfig.from_cache_config(None) == VecInferConfig.from_cache_config({}) == VecInferConfig()
    with pytest.raises(ConfigError, match=r"\['nbits', 'q_group_size'\].*residual_length"):
        VecInferConfig.from_cache_config({"nbits": 4, "q_group_size": 64, "backend": "vecinfer"})
    with pytest.raises(ConfigError, match="backend 'quanto'.*'vecinfer'"):
        VecInferConfig.from_cache_config({"backend": "quanto", "sink_length": 3})
    with pytest.raises(ConfigError, match="list; give a VecInferConfig or a dictionary"):
        VecInferConfig.from_cache_config([1])


BAD = [
    ("quant_method", "gptq"), ("codebook", 3), ("codebook", object()), ("codebook", ""), ("revision", 3),
    ("revision", ""), ("subfolder", b"x"), ("residual_length", -1), ("residual_length", 1.5),
    ("residual_length", "128"), ("residual_length", True), ("residual_length", LONGEST_WINDOW + 1),
    ("sink_length", -1), ("sink_length", 10_000_000), ("sink_choice", "last"), ("sink_choice", 1),
    ("ops_backend", "fast"), ("trusted_owners", "someone"), ("trusted_owners", [1]), ("static", 1),
    ("static", "yes"), ("max_cache_len", 0), ("max_cache_len", 1.5), ("max_cache_len", 10**400),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        VecInferConfig(**{name: value, **NEEDED.get(name, {})})
    with pytest.raises(ConfigError, match=name):
        VecInferConfig.from_cache_config({name: value, **NEEDED.get(name, {})})


@pytest.mark.parametrize("bits", [3, 0, -1, "x", 16, True, float("nan"), [2], 10**400])
@pytest.mark.parametrize("name", ["key_bits", "value_bits"])
def test_unknown_bits_are_refused_with_what_is_possible(name, bits):
    with pytest.raises(ConfigError, match=rf"{name}.*4\.0, 2\.0, 1\.5, 1\.25, 1\.0"):
        VecInferConfig(**{name: bits})


@pytest.mark.parametrize("static", [None, False])
def test_a_growing_cache_has_no_max_cache_len(static):
    with pytest.raises(ConfigError, match="max_cache_len=5 needs static=True"):
        VecInferConfig(max_cache_len=5, static=static)


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"\['bits'\].*key_bits.*residual_length.*upgrade"):
        VecInferConfig.from_dict({"bits": 2})
    with pytest.raises(ConfigError, match=r"\['speed'\]"):
        VecInferConfig.from_dict({}, speed=1)
    with pytest.raises(ConfigError, match="must be a dictionary, not list"):
        VecInferConfig.from_dict([1])
    with pytest.raises(TypeError, match="residual_lenght"):
        VecInferConfig(residual_lenght=2)


def test_unused_keywords_are_handed_back():
    config, unused = VecInferConfig.from_dict(
        {"sink_length": 3}, return_unused_kwargs=True, residual_length=2, device_map="auto"
    )
    assert (config.sink_length, config.residual_length) == (3, 2)
    assert unused == {"device_map": "auto"}


# ---- files


def test_saved_and_loaded(tmp_path):
    config = VecInferConfig(**CHANGED)
    config.save_pretrained(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["vecinfer_config.json"]
    assert VecInferConfig.from_pretrained(tmp_path / "new") == config
    assert VecInferConfig.from_pretrained(tmp_path, subfolder="new") == config
    assert VecInferConfig.from_pretrained(str(tmp_path / "new"), local_files_only=True, token=False) == config


def test_wrong_places_and_arguments_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="it is a file; give a directory"):
        VecInferConfig().save_pretrained(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"vecinfer_config\.json"):
        VecInferConfig.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="revision='main'.*leave it out"):
        VecInferConfig.from_pretrained(tmp_path, revision="main")
    for place in (tmp_path, "org/name"):
        with pytest.raises(TypeError, match="speed"):
            VecInferConfig.from_pretrained(place, speed=1)
    with pytest.raises(TypeError, match="speed"):
        VecInferConfig().push_to_hub("org/name", speed=1)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe{", b'{"residual_length": NaN}', b'{"residual_length": 1e999}',
     b"[" * 100_000, b'{"a":' * 100_000, b'{"bits": 2}', b'{"sink_length": -1}', b"1" * 5000],
    ids=str,
)  # fmt: skip
def test_a_file_of_another_kind(tmp_path, content):
    (tmp_path / "vecinfer_config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"vecinfer_config\.json cannot be used as a VecInferConfig"):
        VecInferConfig.from_pretrained(tmp_path)


def test_a_directory_instead_of_a_file(tmp_path):
    (tmp_path / "vecinfer_config.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be used"):
        VecInferConfig.from_pretrained(tmp_path)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    replace_file(tmp_path / "a.json", b"[1]")

    def full(handle):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "a.json", b"[2]")
    assert read_json(tmp_path / "a.json") == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# ---- what version 0.1 wrote

FULL_0_1 = {
    "codebook": "SmolLM2-135M-Instruct/2bit", "revision": None, "subfolder": None, "residual_length": 128,
    "sink_length": 4, "sink_choice": "small_values", "ops_backend": "auto", "trusted_owners": None, "static": False,
    "max_cache_len": None, "key_bits": 2, "value_bits": 2, "layer_bits": None, "recipe": "default",
    "sequence_length": 2048, "num_tokens": 65536, "num_samples": 16384, "num_iterations": 20, "seed": 0,
    "quant_method": "vecinfer",
}  # fmt: skip
"""`VecInferConfig(codebook="SmolLM2-135M-Instruct/2bit").to_dict()` of version 0.1, as in a saved model's config."""


def test_a_saved_model_of_0_1_loads_with_what_was_set_there():
    assert VecInferConfig.from_dict(FULL_0_1) == VecInferConfig("SmolLM2-135M-Instruct/2bit")
    changed = {"residual_length": 64, "sink_length": 0, "static": True, "max_cache_len": 100, "key_bits": 4}
    assert VecInferConfig.from_dict({**FULL_0_1, **changed}).options() == {
        "codebook": "SmolLM2-135M-Instruct/2bit",
        **changed,
    }


def test_a_size_that_0_1_ignored_is_dropped():
    assert VecInferConfig.from_dict({**FULL_0_1, "max_cache_len": 100}) == VecInferConfig.from_dict(FULL_0_1)


def test_a_full_dictionary_of_0_1_keeps_no_option_of_calibration():
    changed = {"recipe": "paper", "layer_bits": [[4, 2]], "seed": 3}
    assert VecInferConfig.from_dict({**FULL_0_1, **changed}) == VecInferConfig.from_dict(FULL_0_1)


def test_options_of_0_1_that_moved_are_named():
    with pytest.raises(ConfigError, match=r"\['recipe', 'seed'\].*CalibrationConfig"):
        VecInferConfig.from_dict({"quant_method": "vecinfer", "recipe": "paper", "seed": 3})


def test_a_cache_config_of_0_1_loads():
    saved = {"backend": "vecinfer", "codebook": "org/x", "revision": "0" * 40, "residual_length": 64, "static": True}
    assert VecInferConfig.from_cache_config(saved).options() == {k: v for k, v in saved.items() if k != "backend"}


def test_a_config_file_of_0_1_loads(tmp_path):
    text = '{\n  "codebook": "org/x",\n  "key_bits": 4,\n  "quant_method": "vecinfer"\n}\n'
    (tmp_path / "vecinfer_config.json").write_text(text)
    assert VecInferConfig.from_pretrained(tmp_path) == VecInferConfig("org/x", key_bits=4)
