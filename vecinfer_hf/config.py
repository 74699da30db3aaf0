# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VecInferConfig: how a cache runs. CalibrationConfig (calibration_config.py) says how a codebook is made.

Owns the options of a cache, their rules, and how the options of both configs are stored.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from transformers.utils.quantization_config import QuantizationConfigMixin

from .errors import ConfigError
from .quantization.formats import parse_format


SMALL_VALUES, FIRST = SINK_CHOICES = ("small_values", "first")
OPS_BACKENDS = ("auto", "cuda", "cpu", "reference")
QUANT_METHOD = "vecinfer"
LONGEST_WINDOW = 1 << 20
"""Tokens: the largest residual_length and the largest sink_length."""


def check_integer(name: str, value: Any, least: int, most: int) -> None:
    """Raise ConfigError unless `value` is an integer from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; it must be an integer from {least} to {most}.")


def check_seconds(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is a positive, finite number of seconds."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value!r}; it must be a positive number of seconds.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} is {value!r}; use one of {choices}.")


def check_bits(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is a number of bits per element, or a format name."""
    try:
        parse_format(value)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def read_json(path: Path) -> Any:
    """Return the JSON value in a UTF-8 file. ValueError for anything else: NaN, infinity, deep nesting included."""

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text[:20]} is not a finite number")
        return value

    try:
        return json.loads(path.read_bytes().decode("utf-8"), parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that its old or its new content is there whenever the process or the machine stops."""
    temporary = path.with_name(f".{path.name}.saving")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class StoredOptions:
    """Options that are stored as JSON. A subclass is a dataclass and names its file."""

    file_name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return all options as plain JSON values, in new containers."""
        return json.loads(json.dumps({field.name: getattr(self, field.name) for field in fields(self)}))

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as plain JSON values."""
        default = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in self.to_dict().items() if value != default[name]}

    def to_file(self) -> bytes:
        """Return the content of the file: the options of `to_diff_dict` as JSON."""
        return (json.dumps(self.to_diff_dict(), indent=2) + "\n").encode()

    @classmethod
    def check_known(cls, names: Iterable[str]) -> None:
        """Raise ConfigError for names that are no options of this class."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(name) for name in set(names) - set(known))
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no option(s) {unknown}; it has {known}. If a newer version wrote them, upgrade "
                "with `pip install -U vecinfer-hf`."
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs):
        """Return the config that `to_dict` or `to_diff_dict` wrote; `kwargs` replace options of `config_dict`.

        With `return_unused_kwargs` the `kwargs` that are no options are returned too. Otherwise an unknown option is a
        ConfigError.
        """
        if not isinstance(config_dict, dict):
            raise ConfigError(f"{cls.__name__} options must be a dictionary, not {type(config_dict).__name__}.")
        known = {field.name for field in fields(cls)}
        unused = {name: kwargs.pop(name) for name in list(kwargs) if name not in known} if return_unused_kwargs else {}
        cls.check_known([*config_dict, *kwargs])
        config = cls(**{**config_dict, **kwargs})
        return (config, unused) if return_unused_kwargs else config

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the options that differ from their defaults into `save_directory`, as JSON."""
        directory = Path(save_directory).expanduser()
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"Cannot save options to {directory}: it is a file; give a directory.")
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / self.file_name, self.to_file())

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, subfolder: str | None = None, **kwargs):
        """Return the config that `save_pretrained` or `push_to_hub` stored.

        Args:
            name: a directory, or a Hub repository.
            revision: branch, tag or commit of a repository.
            subfolder: directory inside it.
            kwargs: token, cache_dir, local_files_only and force_download, which concern a repository.

        Raises:
            ConfigError: if the file is missing, not JSON, or has unknown options or values that break a rule.
            CodebookHubError: if the Hub has no such file or cannot be reached.
        """
        from .hub.download import check_local, download_options

        directory = Path(name).expanduser()
        if directory.is_dir():
            check_local(name, revision, kwargs)
            path = directory / (subfolder or "") / cls.file_name
        else:
            path = download_options(str(name), cls.file_name, revision=revision, subfolder=subfolder, **kwargs)
        try:
            return cls.from_dict(read_json(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be used as a {cls.__name__}: {error}") from error

    def push_to_hub(self, repo_id: str, **kwargs):
        """Upload these options to a Hub repository and return the commit; see `vecinfer_hf.hub.push_options`."""
        from .hub.push import push_options

        return push_options(self, repo_id, **kwargs)


@dataclass(repr=False)
class VecInferConfig(StoredOptions, QuantizationConfigMixin):
    """How a VecInfer key/value cache runs (https://arxiv.org/abs/2510.06175). None means: as the codebook was made.

    Args:
        codebook: a directory, a shipped codebook ("SmolLM2-135M-Instruct/2bit"), a Hub repository, "auto" (find one,
            or make one), or "online" (fit one to the first prompt). None means "auto".
        revision: branch, tag or commit of a Hub repository.
        subfolder: directory inside a repository or directory.
        trusted_owners: Hub users or organizations from which "auto" may download.
        make: whether "auto" makes a codebook where it finds none; None: as VECINFER_MAKE_CODEBOOK in the environment
            says, which is 1 unless set to 0.
        budget: seconds that making one may take, roughly; None: 60 on a GPU, 150 on a CPU.
        key_bits: bits per key element, 4, 2, 1.5, 1.25 or 1, or a format name such as "d2b8". It chooses among the
            codebooks of "auto" and shapes one that is made; a named codebook must have it.
        value_bits: bits per value element, likewise.
        residual_length: recent tokens kept in full precision.
        sink_length: early tokens of each sequence kept in full precision.
        sink_choice: which ones: "small_values" (for each head those of the first `sink_length + 64` tokens of a
            cache's first call that have the smallest values) or "first" (the first ones).
        static: True allocates the whole cache once, so that `generate` compiles its decode step.
        max_cache_len: tokens that a static cache has room for, at least; None: as many as a call needs.
        ops_backend: "auto" (compiled kernels where they run, else torch), "cuda" or "cpu" (kernels of that device
            or an error) or "reference" (torch). None means "auto".
        quant_method: always "vecinfer"; written into a saved model's config.

    Raises:
        ConfigError: for a value that breaks a rule.
    """

    file_name: ClassVar[str] = "vecinfer_config.json"

    codebook: str | None = None
    _: KW_ONLY
    revision: str | None = None
    subfolder: str | None = None
    trusted_owners: list[str] | None = None
    make: bool | None = None
    budget: float | None = None
    key_bits: float | str | None = None
    value_bits: float | str | None = None
    residual_length: int | None = None
    sink_length: int | None = None
    sink_choice: str | None = None
    static: bool | None = None
    max_cache_len: int | None = None
    ops_backend: str | None = None
    quant_method: str = QUANT_METHOD  # type: ignore[assignment]  # transformers' own is an enum of its methods

    def __post_init__(self):
        if self.quant_method != QUANT_METHOD:
            raise ConfigError(f"quant_method is {self.quant_method!r}; a VecInferConfig needs {QUANT_METHOD!r}.")
        if isinstance(self.codebook, os.PathLike):
            self.codebook = str(self.codebook)
        if self.codebook is not None and not isinstance(self.codebook, str):
            raise ConfigError(
                f"codebook is a {type(self.codebook).__name__}, but a config is stored as JSON and needs a name or "
                "directory; pass a Codebook object to `vecinfer_hf.enable(model, codebook)` or to `VecInferCache`."
            )
        for name in ("codebook", "revision", "subfolder"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigError(f"{name} is {value!r}; it must be a string of at least one character, or None.")
        if (owners := self.trusted_owners) is not None:
            if not isinstance(owners, (list, tuple)) or not all(isinstance(owner, str) for owner in owners):
                raise ConfigError(f"trusted_owners is {owners!r}; it must be a list of Hub names, or None.")
            self.trusted_owners = list(owners)
        for name, check, *rule in (
            ("key_bits", check_bits),
            ("value_bits", check_bits),
            ("residual_length", check_integer, 0, LONGEST_WINDOW),
            ("sink_length", check_integer, 0, LONGEST_WINDOW),
            ("max_cache_len", check_integer, 1, 1 << 40),
            ("sink_choice", check_choice, SINK_CHOICES),
            ("ops_backend", check_choice, OPS_BACKENDS),
        ):
            if getattr(self, name) is not None:
                check(name, getattr(self, name), *rule)
        for name in ("static", "make"):
            if (value := getattr(self, name)) is not None and not isinstance(value, bool):
                raise ConfigError(f"{name} is {value!r}; it must be True, False or None.")
        if self.budget is not None:
            check_seconds("budget", self.budget)
        if self.max_cache_len is not None and not self.static:
            raise ConfigError(f"max_cache_len={self.max_cache_len} needs static=True; a growing cache has none.")

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the options that were set, and `quant_method`, as plain JSON values."""
        return {**super().to_diff_dict(), "quant_method": self.quant_method}

    def options(self) -> dict[str, Any]:
        """Return the options that were set, as `VecInferCache` takes them."""
        return StoredOptions.to_diff_dict(self)

    def cache_config(self) -> dict[str, Any]:
        """Return the `cache_config` for a generation config: the options that were set.

        It carries `backend="vecinfer"` and no `cache_implementation`, because that form still loads, and generates
        with the default cache, where vecinfer_hf is not installed.
        """
        return {"backend": QUANT_METHOD, **self.options()}

    @classmethod
    def from_cache_config(cls, cache_config: VecInferConfig | dict[str, Any] | None) -> VecInferConfig:
        """Return the config for what a user or a saved model has as `cache_config`.

        Raises:
            ConfigError: for an unknown key, another backend, or a value that breaks a rule.
        """
        if isinstance(cache_config, cls):
            return cache_config
        options = {} if cache_config is None else cache_config
        if not isinstance(options, dict):
            raise ConfigError(f"cache_config is a {type(options).__name__}; give a VecInferConfig or a dictionary.")
        if (backend := options.get("backend", QUANT_METHOD)) != QUANT_METHOD:
            raise ConfigError(f"cache_config names the backend {backend!r}; leave it out or give {QUANT_METHOD!r}.")
        return cls.from_dict({name: value for name, value in options.items() if name != "backend"})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs):
        """Return the config that `to_dict` wrote, also one of version 0.1; see `StoredOptions.from_dict`."""
        if isinstance(config_dict, dict):
            from .codebook.format_1 import cache_options

            config_dict = cache_options(config_dict)
        return super().from_dict(config_dict, return_unused_kwargs, **kwargs)
