# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""calibration_config.py: every rule when a CalibrationConfig is made, JSON both ways, and version 0.1's options."""

import json
from dataclasses import fields

import pytest

from vecinfer_hf import CalibrationConfig, ConfigError


CHANGED = {
    "key_bits": 4,
    "value_bits": "d2b8",
    "layer_bits": [[4, 2], ["d8b12", 1]],
    "allocate": 1.5,
    "sensitivity_by": "measurement",
    "refine_steps": 70,
    "recipe": "paper",
    "sequence_length": 512,
    "num_tokens": 1000,
    "num_samples": 100,
    "num_iterations": 3,
    "retrieval_fraction": 0.25,
    "separator_fraction": 1,
    "residual_length": 64,
    "sink_length": 0,
    "sink_choice": "first",
    "seed": 7,
}
CHOOSE_BITS = ("key_bits", "value_bits", "layer_bits", "allocate")


def together():
    """Two sets of options that go together and hold every option."""
    others = {name: value for name, value in CHANGED.items() if name not in CHOOSE_BITS}
    uniform = {name: CHANGED[name] for name in ("key_bits", "value_bits")}
    return [others | uniform, others | {"layer_bits": CHANGED["layer_bits"]}, {"allocate": CHANGED["allocate"]}]


def test_defaults_are_those_of_the_design():
    config = CalibrationConfig()
    assert set(CHANGED) == {field.name for field in fields(CalibrationConfig)}
    assert (config.residual_length, config.sink_length, config.sink_choice) == (128, 4, "small_values")
    assert (config.key_bits, config.value_bits, config.layer_bits, config.allocate) == (2, 2, None, None)
    assert config.recipe == "default"


@pytest.mark.parametrize("options", together(), ids=lambda options: ",".join(sorted(set(options) & set(CHOOSE_BITS))))
def test_every_option_survives_json(options, tmp_path):
    config = CalibrationConfig(**options)
    for dictionary in (config.to_dict(), config.to_diff_dict()):
        assert CalibrationConfig.from_dict(json.loads(json.dumps(dictionary))) == config
    config.save_pretrained(tmp_path)
    assert CalibrationConfig.from_pretrained(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == ["calibration_config.json"]


@pytest.mark.parametrize("name", CHANGED)
def test_a_diff_holds_exactly_what_was_changed(name):
    assert CalibrationConfig(**{name: CHANGED[name]}).to_diff_dict() == {name: CHANGED[name]}
    assert CalibrationConfig().to_diff_dict() == {}


def test_every_option_needs_its_name():
    with pytest.raises(TypeError):
        CalibrationConfig(2)
    with pytest.raises(TypeError, match="recall"):
        CalibrationConfig(recall=0.5)


def test_changing_what_was_given_or_returned_does_not_change_the_config():
    bits = [[4, 2]]
    config = CalibrationConfig(layer_bits=bits)
    bits[0][0] = 1
    config.to_dict()["layer_bits"][0][0] = 1
    assert config.layer_bits == [[4, 2]]
    assert CalibrationConfig(layer_bits=((4, 2),)) == config


BAD = [
    ("residual_length", -1), ("residual_length", None), ("residual_length", 10_000_000), ("sink_length", -1),
    ("sink_length", None), ("sink_length", 1.0), ("sequence_length", 0), ("num_tokens", 0), ("num_samples", 0),
    ("num_iterations", 0), ("num_iterations", 10**30), ("refine_steps", -1), ("refine_steps", 1.5), ("seed", -1),
    ("seed", 0.5), ("seed", 1 << 63), ("seed", True), ("recipe", "fast"), ("recipe", None), ("sink_choice", "last"),
    ("allocate", 0.5), ("allocate", 5), ("allocate", "2"), ("allocate", float("nan")), ("allocate", True),
    ("retrieval_fraction", 1), ("retrieval_fraction", -0.1), ("retrieval_fraction", "x"),
    ("separator_fraction", 1.1), ("separator_fraction", float("inf")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        CalibrationConfig(**{name: value})


@pytest.mark.parametrize("bits", [3, 0, -1, "x", None, 16, True, "d4b8x999999999999"])
@pytest.mark.parametrize("name", ["key_bits", "value_bits", "layer_bits"])
def test_unknown_bits_are_refused_with_what_is_possible(name, bits):
    with pytest.raises(ConfigError, match=rf"{name}.*4\.0, 2\.0, 1\.5, 1\.25, 1\.0"):
        CalibrationConfig(**{name: [[2, bits]] if name == "layer_bits" else bits})


@pytest.mark.parametrize("value", [[2], [[2]], [[2, 2, 2]], ["d4"], [None]])
def test_layer_bits_must_be_pairs(value):
    with pytest.raises(ConfigError, match=r"layer_bits\[0\].*\[key_bits, value_bits\]"):
        CalibrationConfig(layer_bits=value)


@pytest.mark.parametrize("value", [2, "d4b8", {}])
def test_layer_bits_must_be_a_list(value):
    with pytest.raises(ConfigError, match="layer_bits"):
        CalibrationConfig(layer_bits=value)


@pytest.mark.parametrize(
    "options",
    [
        {"allocate": 2, "layer_bits": [[2, 2]]},
        {"allocate": 2, "key_bits": 4},
        {"layer_bits": [[2, 2]], "value_bits": 1},
    ],
    ids=str,
)
def test_two_options_that_choose_the_bits_contradict_each_other(options):
    with pytest.raises(ConfigError) as raised:
        CalibrationConfig(**options)
    assert all(name in str(raised.value) for name in (*options, "leave one of them out"))


def test_formats_per_layer():
    config = CalibrationConfig(key_bits=4, value_bits=1.5)
    assert [[fmt.name for fmt in pair] for pair in config.formats(2)] == [["d4b8x2", "d8b12"]] * 2
    config = CalibrationConfig(layer_bits=[[4, 2], [1, "d2b8"], [2, 2]])
    assert [[fmt.name for fmt in pair] for pair in config.formats(3)] == [
        ["d4b8x2", "d4b8"], ["d8b8", "d2b8"], ["d4b8", "d4b8"],
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"layer_bits has 3 entries.*4 layers"):
        config.formats(4)


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"\['speed'\].*key_bits.*upgrade"):
        CalibrationConfig.from_dict({"speed": 9})


# ---- codebooks of version 0.1, whose options lay in two places

OPTIONS_0_1 = {
    "quant_method": "vecinfer", "codebook": None, "revision": None, "subfolder": None, "residual_length": 64,
    "sink_length": 2, "sink_choice": "first", "ops_backend": "auto", "trusted_owners": None, "static": False,
    "max_cache_len": None, "key_bits": 2, "value_bits": 2, "layer_bits": None, "recipe": "query",
    "sequence_length": 512, "num_tokens": 1000, "num_samples": 100, "num_iterations": 3, "seed": 5,
}  # fmt: skip


def test_options_of_0_1():
    found = CalibrationConfig.from_version_0_1(OPTIONS_0_1, {"refine_steps": 3, "recall": 0.5, "separators": 0.25})
    assert found == CalibrationConfig(
        residual_length=64, sink_length=2, sink_choice="first", recipe="query", sequence_length=512, num_tokens=1000,
        num_samples=100, num_iterations=3, seed=5, refine_steps=3, retrieval_fraction=0.5, separator_fraction=0.25,
    )  # fmt: skip
    assert CalibrationConfig.from_version_0_1(OPTIONS_0_1, {}).retrieval_fraction is None
    before_there_were_fractions = CalibrationConfig.from_version_0_1(OPTIONS_0_1, {"tokens": 1000, "recall": 0.3})
    assert before_there_were_fractions.retrieval_fraction == 0.3
    assert before_there_were_fractions.separator_fraction == 0


def test_an_allocation_of_0_1_is_a_request_again_not_its_outcome():
    options = {**OPTIONS_0_1, "key_bits": 4, "layer_bits": [[4, 1], [1, 2]]}
    assert CalibrationConfig.from_version_0_1(options, {"allocated_bits": 2}).to_diff_dict()["allocate"] == 2
    assert CalibrationConfig.from_version_0_1(options, {}).layer_bits == [[4, 1], [1, 2]]


@pytest.mark.parametrize("change", [{"speed": 9}, {"residual_length": -5}, {"key_bits": 3}], ids=str)
def test_bad_options_of_0_1_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        CalibrationConfig.from_version_0_1({**OPTIONS_0_1, **change}, {})
