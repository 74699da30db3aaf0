# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferConfig: everything a user chooses, checked when it is made.

Owns options and their rules. Which layers and heads a model has is the codebook's knowledge, not the config's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from .cache.sinks import SINK_CHOICES, SMALL_VALUES
from .quantization.formats import CodeFormat, parse_format


OPS_BACKENDS = ("auto", "cuda", "reference")
CACHE_OPTIONS = (
    "codebook",
    "revision",
    "subfolder",
    "residual_length",
    "sink_length",
    "sink_choice",
    "ops_backend",
    "trusted_owners",
    "static",
    "max_cache_len",
    "key_bits",
    "value_bits",
)
"""The options that matter when a codebook is used; the others matter when one is made."""


@dataclass(repr=False)
class VecInferConfig(QuantizationConfigMixin):
    """Options of a VecInfer key/value cache (https://arxiv.org/abs/2510.06175).

    The first ten say how a cache runs; the rest say how `calibrate` makes a codebook and are ignored afterwards,
    because a codebook remembers its own formats.

    Args:
        codebook: name of the codebook: a directory, a shipped one ("SmolLM2-135M-Instruct/2bit"), a Hub repository,
            "auto" (find one), or "online" (fit one to the first prompt).
        revision: branch, tag or commit of a Hub repository.
        subfolder: directory inside a Hub repository.
        residual_length: recent tokens kept in full precision; 0 to keep none.
        sink_length: early tokens of every sequence kept in full precision.
        sink_choice: which ones: "small_values", for each head those of the first `sink_length + 64` tokens of a
            cache's first call that have the smallest values (see sinks.py), or "first", the first ones.
        ops_backend: "auto" (compiled kernels where they run, else torch), "cuda" (kernels or an error), "reference".
        trusted_owners: Hub users or organizations from which `codebook="auto"` may download.
        static: allocate the whole cache at once, so that `generate` compiles its decode step (CUDA graphs).
        max_cache_len: tokens a static cache has room for, at least; default what the call needs.
        key_bits: bits per key element: 4, 2, 1.5, 1.25, 1, or a format name such as "d2b8".
        value_bits: bits per value element, likewise.
        layer_bits: one `[key_bits, value_bits]` per quantized layer, instead of the two above, or None.
        recipe: "default", "query" (forward passes only, faster), or "paper" for the recipe of the paper.
        sequence_length: tokens per calibration window; cover the positions that will be used.
        num_tokens: calibration tokens read, at most.
        num_samples: tokens per layer kept for k-means (reservoir sampling).
        num_iterations: k-means iterations.
        seed: seed of sampling and k-means.
        quant_method: always "vecinfer"; written into a saved model's config.

    Raises:
        ValueError: for a value that breaks a rule, naming the value, the rule and the remedy.
    """

    codebook: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    residual_length: int = 128
    sink_length: int = 4
    sink_choice: str = SMALL_VALUES
    ops_backend: str = "auto"
    trusted_owners: list[str] | None = None
    static: bool = False
    max_cache_len: int | None = None
    key_bits: float | str = 2
    value_bits: float | str = 2
    layer_bits: list[list[float | str]] | None = None
    recipe: str = "default"
    sequence_length: int = 2048
    num_tokens: int = 65536
    num_samples: int = 16384
    num_iterations: int = 20
    seed: int = 0
    quant_method: str = "vecinfer"

    def __post_init__(self):
        if self.quant_method != "vecinfer":
            raise ValueError(f"quant_method is {self.quant_method!r}; a VecInferConfig needs 'vecinfer'.")
        if self.codebook is not None and not isinstance(self.codebook, str):
            raise ValueError(
                f"codebook is a {type(self.codebook).__name__}, but a config is stored as JSON and needs a name or "
                "directory; pass a Codebook object to `vecinfer_hf.enable(model, codebook=...)` or `VecInferCache`."
            )
        for name in ("revision", "subfolder"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} is {value!r}; it must be a string or None.")
        if self.trusted_owners is not None and not (
            isinstance(self.trusted_owners, (list, tuple)) and all(isinstance(o, str) for o in self.trusted_owners)
        ):
            raise ValueError(f"trusted_owners is {self.trusted_owners!r}; it must be a list of Hub names or None.")
        if not isinstance(self.static, bool):
            raise ValueError(f"static is {self.static!r}; it must be true or false.")
        if self.max_cache_len is not None and (not isinstance(self.max_cache_len, int) or self.max_cache_len < 1):
            raise ValueError(f"max_cache_len is {self.max_cache_len!r}; it must be a positive integer or None.")
        for name, least in (
            ("residual_length", 0),
            ("sink_length", 0),
            ("sequence_length", 1),
            ("num_tokens", 1),
            ("num_samples", 1),
            ("num_iterations", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}.")
        if self.sink_choice not in SINK_CHOICES:
            raise ValueError(f"sink_choice is {self.sink_choice!r}; use one of {SINK_CHOICES}.")
        if self.ops_backend not in OPS_BACKENDS:
            raise ValueError(f"ops_backend is {self.ops_backend!r}; use one of {OPS_BACKENDS}.")
        parse_format(self.key_bits)
        parse_format(self.value_bits)
        if self.layer_bits is not None:
            if not isinstance(self.layer_bits, (list, tuple)):
                raise ValueError(f"layer_bits is {self.layer_bits!r}; it must be a list of [key_bits, value_bits].")
            for index, pair in enumerate(self.layer_bits):
                if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                    raise ValueError(f"layer_bits[{index}] is {pair!r}; it must be [key_bits, value_bits].")
                parse_format(pair[0])
                parse_format(pair[1])

    def formats(self, num_layers: int) -> list[tuple[CodeFormat, CodeFormat]]:
        """Return the key and value format of each of `num_layers` quantized layers.

        Raises:
            ValueError: if `layer_bits` has another length.
        """
        pairs = self.layer_bits
        if pairs is None:
            pairs = [(self.key_bits, self.value_bits)] * num_layers
        if len(pairs) != num_layers:
            raise ValueError(
                f"layer_bits has {len(pairs)} entries but the model has {num_layers} layers with full attention; "
                "give one [key_bits, value_bits] for each of these."
            )
        return [(parse_format(key), parse_format(value)) for key, value in pairs]

    @property
    def bits_per_element(self) -> float:
        """Mean bits per key or value element of the coded tokens, over all layers."""
        pairs = self.layer_bits or [(self.key_bits, self.value_bits)]
        return sum(parse_format(bits).bits_per_element for pair in pairs for bits in pair) / (2 * len(pairs))

    def to_dict(self) -> dict[str, Any]:
        """Return all options as plain JSON values."""
        return asdict(self)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, and `quant_method`."""
        default = {field.name: field.default for field in fields(self)}
        return {
            name: value for name, value in self.to_dict().items() if name == "quant_method" or value != default[name]
        }

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs):
        """Return the config that `to_dict` wrote.

        Raises:
            ValueError: for an unknown option, listing the known ones.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(config_dict) - known)
        if unknown:
            raise ValueError(f"Unknown VecInferConfig option(s) {unknown}; known are {sorted(known)}.")
        config = cls(**config_dict, **{name: value for name, value in kwargs.items() if name in known})
        unused = {name: value for name, value in kwargs.items() if name not in known}
        return (config, unused) if return_unused_kwargs else config

    def push_to_hub(self, repo_id: str, **kwargs):
        """Upload these options to a Hub repository; see `vecinfer_hf.hub.push_config` for the arguments.

        Returns:
            The commit, a `huggingface_hub.CommitInfo`.
        """
        from .hub import push_config

        return push_config(self, repo_id, **kwargs)

    def cache_config(self) -> dict[str, Any]:
        """Return the `cache_config` for a generation config: what differs from the defaults, as plain JSON.

        It carries `backend="vecinfer"` and no `cache_implementation`, because that form still loads, and generates
        with the stock cache, where vecinfer_hf is not installed.
        """
        changed = self.to_diff_dict()
        return {"backend": "vecinfer", **{name: changed[name] for name in CACHE_OPTIONS if name in changed}}


def check_cache_config(cache_config: dict[str, Any] | None) -> dict[str, Any]:
    """Return the options in a `cache_config`, checked, without `backend`.

    Raises:
        ValueError: for an unknown key, listing the known ones, or for a value that VecInferConfig refuses.
    """
    options = {name: value for name, value in (cache_config or {}).items() if name != "backend"}
    unknown = sorted(set(options) - set(CACHE_OPTIONS))
    if unknown:
        raise ValueError(f"Unknown cache_config key(s) {unknown} for the vecinfer cache; known are {CACHE_OPTIONS}.")
    VecInferConfig(**options)
    return options
