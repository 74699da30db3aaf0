# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""CalibrationConfig: how a codebook is made. It is stored with the codebook, which can be made again from it.

Owns these options and their rules. It stands beside config.py, not in calibration/: every codebook carries one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .config import (
    LONGEST_WINDOW,
    SINK_CHOICES,
    SMALL_VALUES,
    StoredOptions,
    check_bits,
    check_choice,
    check_integer,
)
from .errors import ConfigError
from .quantization.formats import CodeFormat, parse_format


RECIPES = ("default", "query", "paper")
SENSITIVITY_BY = ("measurement", "gradients")
MOVED_FROM_PROVENANCE = {
    "refine_steps": "refine_steps",
    "recall": "retrieval_fraction",
    "separators": "separator_fraction",
    "allocated_bits": "allocate",
}
"""Facts that version 0.1 wrote into a codebook's provenance, and the options that they are now."""
_CACHE_0_1 = "quant_method codebook revision subfolder ops_backend trusted_owners static max_cache_len".split()
"""Options of version 0.1 that say nothing of how a codebook is made."""
CANDIDATE_BITS = (1, 2, 4)
"""Bits per element that `allocate` distributes."""
_MOST = 1 << 40


@dataclass(kw_only=True)
class CalibrationConfig(StoredOptions):
    """How `calibrate` makes a codebook (https://arxiv.org/abs/2510.06175, section 3).

    Args:
        key_bits: bits per key element: 4, 2, 1.5, 1.25, 1, or a format name such as "d2b8".
        value_bits: bits per value element, likewise.
        layer_bits: one `[key_bits, value_bits]` per quantized layer, instead of the two above, or None.
        allocate: mean bits per element to distribute over layers, keys and values by sensitivity, from 1 to 4, instead
            of `key_bits`, `value_bits` and `layer_bits`; None to use those.
        sensitivity_by: how `allocate` finds the sensitivity: by "measurement" on text, or by the "gradients" that the
            recipe "default" has, which predict it; None: by gradients on a CPU where they are there, else measurement.
        refine_steps: steps of refinement by gradient against the unquantized model; 0 for none.
        recipe: "default" (a matrix per head from the gradients of the model's loss), "query" (forward passes only,
            faster) or "paper".
        sequence_length: tokens per calibration window; cover the positions that will be used.
        num_tokens: calibration tokens read, at most.
        num_samples: tokens per layer kept for k-means (reservoir sampling).
        num_iterations: k-means iterations.
        retrieval_fraction: fraction of calibration windows that are needle-style facts and questions, 0 <= x < 1;
            None: 0.5 for the recipe "default", else 0.
        separator_fraction: fraction of windows that get special tokens at random places, 0 <= x <= 1; None: 0.25 for
            the recipe "default", else 0.
        residual_length: recent tokens kept in full precision; a cache uses as many unless told otherwise.
        sink_length: early tokens kept in full precision, likewise.
        sink_choice: which ones, see `VecInferConfig`; likewise.
        seed: seed of every random choice.

    Raises:
        ConfigError: for a value that breaks a rule.
    """

    file_name: ClassVar[str] = "calibration_config.json"

    key_bits: float | str = 2
    value_bits: float | str = 2
    layer_bits: list[list[float | str]] | None = None
    allocate: float | None = None
    sensitivity_by: str | None = None
    refine_steps: int = 0
    recipe: str = "default"
    sequence_length: int = 2048
    num_tokens: int = 65536
    num_samples: int = 16384
    num_iterations: int = 20
    retrieval_fraction: float | None = None
    separator_fraction: float | None = None
    residual_length: int = 128
    sink_length: int = 4
    sink_choice: str = SMALL_VALUES
    seed: int = 0

    def __post_init__(self):
        check_bits("key_bits", self.key_bits)
        check_bits("value_bits", self.value_bits)
        if self.layer_bits is not None:
            self._check_layer_bits()
            self.layer_bits = [list(pair) for pair in self.layer_bits]
        _check_fraction("allocate", self.allocate, min(CANDIDATE_BITS), max(CANDIDATE_BITS))
        self._check_one_choice_of_bits()
        _check_fraction("retrieval_fraction", self.retrieval_fraction, 0, 1, "below 1")
        _check_fraction("separator_fraction", self.separator_fraction, 0, 1)
        check_choice("recipe", self.recipe, RECIPES)
        check_choice("sink_choice", self.sink_choice, SINK_CHOICES)
        if self.sensitivity_by is not None:
            check_choice("sensitivity_by", self.sensitivity_by, SENSITIVITY_BY)
        for name, least, most in (
            ("residual_length", 0, LONGEST_WINDOW),
            ("sink_length", 0, LONGEST_WINDOW),
            ("refine_steps", 0, _MOST),
            ("sequence_length", 1, _MOST),
            ("num_tokens", 1, _MOST),
            ("num_samples", 1, _MOST),
            ("num_iterations", 1, _MOST),
            ("seed", 0, (1 << 63) - 1),
        ):
            check_integer(name, getattr(self, name), least, most)

    def _check_one_choice_of_bits(self) -> None:
        """Raise ConfigError if two options choose the bits; key_bits and value_bits do where they are not default."""
        names = [name for name in ("allocate", "layer_bits") if getattr(self, name) is not None]
        if names:
            names += [name for name in ("key_bits", "value_bits") if getattr(self, name) != getattr(type(self), name)]
        if len(names) > 1:
            raise ConfigError(
                f"{names[0]}={getattr(self, names[0])!r} and {names[1]}={getattr(self, names[1])!r} contradict each "
                "other: both choose the bits; leave one of them out."
            )

    def _check_layer_bits(self) -> None:
        if not isinstance(self.layer_bits, (list, tuple)):
            raise ConfigError(f"layer_bits is {self.layer_bits!r}; it must be a list of [key_bits, value_bits].")
        for index, pair in enumerate(self.layer_bits):
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise ConfigError(f"layer_bits[{index}] is {pair!r}; it must be [key_bits, value_bits].")
            for value in pair:
                check_bits(f"layer_bits[{index}]", value)

    def formats(self, num_layers: int) -> list[tuple[CodeFormat, CodeFormat]]:
        """Return the key and value format of each of `num_layers` quantized layers, before any allocation.

        Raises:
            ConfigError: if `layer_bits` has another length.
        """
        pairs = self.layer_bits
        if pairs is None:
            pairs = [[self.key_bits, self.value_bits]] * num_layers
        if len(pairs) != num_layers:
            raise ConfigError(
                f"layer_bits has {len(pairs)} entries but the model has {num_layers} layers with full attention; "
                "give one [key_bits, value_bits] for each of these."
            )
        return [(parse_format(key), parse_format(value)) for key, value in pairs]

    @classmethod
    def from_version_0_1(cls, options: dict[str, Any], provenance: dict[str, Any]) -> CalibrationConfig:
        """Return the config of a codebook of version 0.1, whose options lay in two places.

        Args:
            options: `vecinfer_config` of its config.json.
            provenance: `provenance` of its config.json.

        Raises:
            ConfigError: for an unknown option or a value that breaks a rule.
        """
        kept = {name: value for name, value in options.items() if name not in _CACHE_0_1}
        if "tokens" in provenance:
            # `calibrate` wrote it. Where it wrote no fraction, it did not know such text yet.
            kept |= {"retrieval_fraction": 0.0, "separator_fraction": 0.0}
        for old, new in MOVED_FROM_PROVENANCE.items():
            if provenance.get(old) is not None:
                kept[new] = provenance[old]
        if kept.get("allocate") is not None:
            # Version 0.1 wrote the outcome of the allocation here.
            kept["layer_bits"] = None
        if kept.get("allocate") is not None or kept.get("layer_bits") is not None:
            # It took these instead of the bits for all layers, which it wrote as well.
            kept = {name: value for name, value in kept.items() if name not in ("key_bits", "value_bits")}
        return cls.from_dict(kept)


def _check_fraction(name: str, value: Any, least: float, most: float, end: str | None = None) -> None:
    """Raise ConfigError unless `value` is None or a number from `least` to `most` (below it if `end` says so)."""
    if value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (end and value >= most):
        raise ConfigError(f"{name} is {value!r}; it must be a number from {least} to {end or most}, or None.")
