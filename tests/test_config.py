# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""config.py: every rule when a config is made, and plain JSON both ways."""

import json
from dataclasses import fields

import pytest

from vecinfer_hf import VecInferConfig
from vecinfer_hf.config import CACHE_OPTIONS, check_cache_config


CHANGED = {
    "codebook": "someone/model-vecinfer",
    "revision": "main",
    "subfolder": "2bit",
    "residual_length": 64,
    "sink_length": 0,
    "sink_choice": "first",
    "ops_backend": "reference",
    "trusted_owners": ["someone"],
    "static": True,
    "max_cache_len": 4096,
    "key_bits": 4,
    "value_bits": "d2b8",
    "layer_bits": [[4, 2], ["d8b12", 1]],
    "recipe": "paper",
    "sequence_length": 512,
    "num_tokens": 1000,
    "num_samples": 100,
    "num_iterations": 3,
    "seed": 7,
}


def test_defaults_are_those_of_the_design():
    config = VecInferConfig()
    assert (config.residual_length, config.sink_length) == (128, 4)
    assert (config.key_bits, config.value_bits, config.bits_per_element) == (2, 2, 2)
    assert config.quant_method == "vecinfer"


def test_every_option_survives_json():
    config = VecInferConfig(**CHANGED)
    assert set(CHANGED) == {field.name for field in fields(VecInferConfig)} - {"quant_method"}
    for dictionary in (config.to_dict(), config.to_diff_dict()):
        assert VecInferConfig.from_dict(json.loads(json.dumps(dictionary))) == config
    assert VecInferConfig.from_dict(json.loads(config.to_json_string())) == config


@pytest.mark.parametrize("name", CHANGED)
def test_a_diff_holds_exactly_what_was_changed(name):
    config = VecInferConfig(**{name: CHANGED[name]})
    assert config.to_diff_dict() == {"quant_method": "vecinfer", name: CHANGED[name]}
    assert VecInferConfig().to_diff_dict() == {"quant_method": "vecinfer"}


def test_changing_what_to_dict_returned_does_not_change_the_config():
    config = VecInferConfig(layer_bits=[[4, 2]])
    config.to_dict()["layer_bits"][0][0] = 1
    config.cache_config()["backend"] = "x"
    assert config.layer_bits == [[4, 2]]


def test_cache_config_is_the_form_that_is_safe_on_disk():
    """A backend and no cache_implementation; only what matters when a cache runs."""
    config = VecInferConfig(**CHANGED)
    cache_config = config.cache_config()
    assert cache_config["backend"] == "vecinfer"
    assert set(cache_config) == {"backend", *(set(CACHE_OPTIONS) & set(CHANGED))}
    assert check_cache_config(json.loads(json.dumps(cache_config))) == {
        name: value for name, value in cache_config.items() if name != "backend"
    }
    assert VecInferConfig().cache_config() == {"backend": "vecinfer"}


BAD = [
    ("quant_method", "gptq"), ("codebook", 3), ("codebook", object()), ("revision", 3), ("subfolder", b"x"),
    ("residual_length", -1), ("residual_length", 1.5), ("residual_length", "128"), ("residual_length", True),
    ("residual_length", None), ("sink_length", -1), ("sink_length", None), ("sequence_length", 0), ("num_tokens", 0),
    ("num_samples", 0), ("num_iterations", 0), ("seed", -1), ("seed", 0.5), ("ops_backend", "fast"),
    ("ops_backend", None), ("trusted_owners", "someone"), ("trusted_owners", [1]), ("static", 1), ("static", "yes"),
    ("max_cache_len", 0), ("max_cache_len", 1.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        VecInferConfig(**{name: value})
    if name in CACHE_OPTIONS and value is not None:
        with pytest.raises(ValueError, match=name):
            check_cache_config({name: value})


@pytest.mark.parametrize("bits", [3, 0, -1, "x", None, 16, True])
@pytest.mark.parametrize("name", ["key_bits", "value_bits", "layer_bits"])
def test_unknown_bits_are_refused_with_what_is_possible(name, bits):
    value = [[2, bits]] if name == "layer_bits" else bits
    with pytest.raises(ValueError, match=r"4\.0, 2\.0, 1\.5, 1\.25, 1\.0"):
        VecInferConfig(**{name: value})


@pytest.mark.parametrize("value", [[2], [[2]], [[2, 2, 2]], ["d4"], [None]])
def test_layer_bits_must_be_pairs(value):
    with pytest.raises(ValueError, match=r"layer_bits\[0\].*\[key_bits, value_bits\]"):
        VecInferConfig(layer_bits=value)


@pytest.mark.parametrize("value", [2, "d4b8", {}])
def test_layer_bits_must_be_a_list(value):
    with pytest.raises(ValueError, match="layer_bits"):
        VecInferConfig(layer_bits=value)


def test_formats_per_layer():
    config = VecInferConfig(key_bits=4, value_bits=1.5)
    assert [[fmt.name for fmt in pair] for pair in config.formats(2)] == [["d4b8x2", "d8b12"]] * 2
    config = VecInferConfig(layer_bits=[[4, 2], [1, "d2b8"], [2, 2]])
    assert [[fmt.name for fmt in pair] for pair in config.formats(3)] == [
        ["d4b8x2", "d4b8"], ["d8b8", "d2b8"], ["d4b8", "d4b8"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"layer_bits has 3 entries.*4 layers"):
        config.formats(4)


@pytest.mark.parametrize(
    ("options", "mean"),
    [({}, 2), ({"key_bits": 4}, 3), ({"key_bits": 1.5, "value_bits": 1}, 1.25), ({"layer_bits": [[4, 2], [1, 1]]}, 2)],
)
def test_mean_bits(options, mean):
    assert VecInferConfig(**options).bits_per_element == mean


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"\['bits'\].*key_bits.*residual_length"):
        VecInferConfig.from_dict({"bits": 2})
    with pytest.raises(ValueError, match=r"\['nbits', 'q_group_size'\].*residual_length"):
        check_cache_config({"nbits": 4, "q_group_size": 64, "backend": "vecinfer"})


def test_unused_keywords_are_handed_back():
    config, unused = VecInferConfig.from_dict({"seed": 3}, return_unused_kwargs=True, sink_length=2, device_map="auto")
    assert (config.seed, config.sink_length) == (3, 2)
    assert unused == {"device_map": "auto"}


def test_check_cache_config_neither_keeps_nor_changes_what_it_is_given():
    given = {"backend": "vecinfer", "sink_length": 3}
    checked = check_cache_config(given)
    checked["sink_length"] = 9
    assert given == {"backend": "vecinfer", "sink_length": 3}
    assert check_cache_config(None) == check_cache_config({}) == {}
