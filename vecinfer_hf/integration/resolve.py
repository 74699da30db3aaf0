# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From what a user names to a Codebook and the options of a cache. The one resolver: every entry comes here.

Owns the search by name, "auto" and "online", what is kept in memory, and the check of options against the codebook.
"""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..cache.online_codebook import ONLINE, OnlineCodebook
from ..calibration_config import CalibrationConfig
from ..codebook.codebook import Codebook
from ..codebook.files import CONFIG_NAME
from ..codebook.fingerprint import quantization_of, weights_fingerprint
from ..config import VecInferConfig
from ..errors import CodebookError, CodebookHubError, ConfigError, NoCodebookError
from ..model_info import check_identity, model_identity
from ..quantization.formats import parse_format


AUTO = "auto"
logger = logging.get_logger(__name__)

_loaded: WeakValueDictionary[tuple, Codebook] = WeakValueDictionary()
"""Every codebook that is in use, by what named it."""
_checked: WeakKeyDictionary[PreTrainedModel, weakref.ref[Codebook]] = WeakKeyDictionary()
"""The codebook that a model was used with last, and whose weights were compared."""
_recent: deque[Codebook] = deque(maxlen=4)
"""The codebooks named last, kept so that a call that names one again does not read it again."""


def forget_codebooks() -> None:
    """Drop every codebook that this process keeps in memory; caches and models that use one keep it."""
    _recent.clear()
    _loaded.clear()


def resolve(
    model_or_config: PreTrainedModel | PreTrainedConfig,
    codebook: Codebook | VecInferConfig | str | Path | None = None,
    **options: Any,
) -> tuple[Codebook, VecInferConfig]:
    """Return the codebook and the options of a cache.

    Args:
        model_or_config: the model, or its config.
        codebook: a Codebook, a VecInferConfig, a name or directory, or None for "auto".
        options: options of a VecInferConfig; None where not given. They replace those of a VecInferConfig.

    Raises:
        ConfigError: for an unknown option, or one that contradicts the codebook.
        CodebookError: if there is no such codebook, or it does not fit the model.
    """
    VecInferConfig.check_known(options)
    given = {name: value for name, value in options.items() if value is not None}
    # A cache of some of the heads has a part of its codebook.
    made = codebook.whole if isinstance(codebook, Codebook) else None
    if isinstance(codebook, VecInferConfig):
        config = replace(codebook, **given)
    elif made is not None or codebook is None:
        config = VecInferConfig(**given)
    elif isinstance(codebook, (str, Path)):
        config = VecInferConfig(str(codebook), **given)
    else:
        raise ConfigError(
            f"codebook is a {type(codebook).__name__}; give a Codebook, a VecInferConfig, a name, a directory or None."
        )
    model_config = getattr(model_or_config, "config", model_or_config)
    if made is None:
        made = _online(model_config, config) if config.codebook == ONLINE else _named(model_or_config, config)
    made.check_model(model_config)
    problem = _other_bits(made, config)
    if problem:
        raise ConfigError(problem)
    _check_weights(made, model_or_config)
    return made, config


def _online(model_config: PreTrainedConfig, config: VecInferConfig) -> OnlineCodebook:
    names = ("key_bits", "value_bits", "residual_length", "sink_length", "sink_choice")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return OnlineCodebook(model_config, CalibrationConfig(**given), fixed=bool(config.static))


def _named(model_or_config: PreTrainedModel | PreTrainedConfig, config: VecInferConfig) -> Codebook:
    """Return the codebook that `config` names; a second call returns the same object."""
    name = config.codebook or AUTO
    key: tuple = (name, config.revision, config.subfolder, _modified(name, config.subfolder))
    if name == AUTO:
        identity = model_identity(getattr(model_or_config, "config", model_or_config))
        key += (str(identity), tuple(config.trusted_owners or ()), config.key_bits, config.value_bits)
        if isinstance(model_or_config, PreTrainedModel):
            key += (weights_fingerprint(model_or_config),)
    codebook = _loaded.get(key)
    if codebook is None:
        codebook = _loaded.setdefault(key, _load(name, model_or_config, config))
    if all(codebook is not other for other in _recent):
        _recent.append(codebook)
    return codebook


def _load(name: str, model_or_config: PreTrainedModel | PreTrainedConfig, config: VecInferConfig) -> Codebook:
    place = {name: getattr(config, name) for name in ("revision", "subfolder") if getattr(config, name)}
    if name != AUTO:
        return Codebook.from_pretrained(_beside_model(name, model_or_config, config.subfolder), **place)
    if place:
        raise ConfigError(f'{sorted(place)} say where a codebook lies, but codebook="auto" looks for one; name it.')
    from ..hub.search import candidates
    from .make import bits_name

    bits = {"key_bits": config.key_bits, "value_bits": config.value_bits}
    found = candidates(model_or_config, trusted_owners=config.trusted_owners, **bits)
    while True:
        try:
            item = next(found)
        except NoCodebookError as nothing:
            return _made(model_or_config, config, nothing)
        if item.source == "made here" and Path(item.name).name != bits_name(config):
            continue  # it was made with other bits
        try:
            codebook = Codebook.from_pretrained(item.name, revision=item.revision, subfolder=item.subfolder)
        except (CodebookError, CodebookHubError) as error:
            chosen = item.source == "model config" or (item.source == "saved with the model" and not item.subfolder)
            if chosen or (isinstance(error, CodebookHubError) and item.source != "saved with the model"):
                raise
            problem: str | None = str(error)
        else:
            problem = _mismatch(codebook, item.source, model_or_config, config)
        if problem is None:
            logger.warning_once(f'codebook="auto" took {item} because {item.why}.')
            if item.source in ("made here", "saved with the model"):
                codebook.source = None  # "auto" finds it again, and its directory is this machine's
            return codebook
        logger.warning(f'codebook="auto" passes over {item}: {problem}')


def _made(
    model_or_config: PreTrainedModel | PreTrainedConfig, config: VecInferConfig, nothing: NoCodebookError
) -> Codebook:
    """Return a codebook made for the model now.

    Raises:
        NoCodebookError: if making is forbidden, or there are no weights to make it from.
    """
    from .make import MAKE_VARIABLE, made_codebook, may_make

    if not may_make(config):
        raise NoCodebookError(f"{nothing} Or let one be made: make=True, or {MAKE_VARIABLE}=1.") from None
    if not isinstance(model_or_config, PreTrainedModel):
        raise NoCodebookError(f"{nothing} Or give the model instead of its config: one is made from its weights.")
    if nothing.offers:
        logger.warning(str(nothing))
    return made_codebook(model_or_config, config)


def _beside_model(name: str, model_or_config: PreTrainedModel | PreTrainedConfig, subfolder: str | None) -> str:
    """Return the name; one that is relative, and no directory here, may lie in the directory of the model."""
    model = getattr(model_or_config, "config", model_or_config)._name_or_path or ""
    try:
        place = Path(model).expanduser() / name
        if model and not Path(name).is_dir() and (place / (subfolder or "") / CONFIG_NAME).is_file():
            return str(place)
    except (OSError, RuntimeError, ValueError):  # no file can have that name
        pass
    return name


def _mismatch(
    codebook: Codebook, source: str, model_or_config: PreTrainedModel | PreTrainedConfig, config: VecInferConfig
) -> str | None:
    """Return why a codebook that was found is not for this model after all: a card can claim anything."""
    from ..hub.local_places import same_name

    identity = model_identity(getattr(model_or_config, "config", model_or_config))
    if source not in ("made here", "saved with the model") and not same_name(codebook.identity.name, identity.name):
        return f"it was made for {codebook.identity.name}, not for {identity.name}."
    problem = check_identity(codebook.identity, identity)
    if problem is None and not _one_is_quantized(codebook, model_or_config):
        problem = _other_weights(codebook, model_or_config)
    return f"{problem}." if problem else _other_bits(codebook, config)


def _one_is_quantized(codebook: Codebook, model_or_config: PreTrainedModel | PreTrainedConfig) -> bool:
    """Return whether the codebook's weights or the model's are a quantized form: one of the other serves it then."""
    config = getattr(model_or_config, "config", model_or_config)
    return bool(codebook.provenance.get("quantization") or quantization_of(config))


def _check_weights(codebook: Codebook, model_or_config: PreTrainedModel | PreTrainedConfig) -> None:
    """Warn of a codebook that was made for other weights; a model is looked at once for each codebook."""
    if isinstance(model_or_config, PreTrainedModel):
        last = _checked.get(model_or_config)
        if last is None or last() is not codebook:
            _checked[model_or_config] = weakref.ref(codebook)
            problem = _other_weights(codebook, model_or_config)
            if problem:
                logger.warning_once(
                    f"vecinfer: {problem}, so its quality may differ; measure it with `vecinfer evaluate`."
                )


def _other_weights(codebook: Codebook, model_or_config: PreTrainedModel | PreTrainedConfig) -> str | None:
    """Return that a codebook was made for other weights than a loaded model's, or None; one may not know its own."""
    if codebook.weights_fingerprint is None or not isinstance(model_or_config, PreTrainedModel):
        return None
    fingerprint = weights_fingerprint(model_or_config)
    if fingerprint == codebook.weights_fingerprint:
        return None
    made_for = codebook.identity.name or codebook.identity.model_type
    return (
        f"the codebook was made for other weights ({made_for}, fingerprint {codebook.weights_fingerprint[:12]}) than "
        f"the model has ({fingerprint[:12]})"
    )


def _modified(name: str, subfolder: str | None) -> tuple[int, int] | None:
    """File number and time of change of a local codebook, so that one that was saved again is read again."""
    try:
        found = (Path(name).expanduser() / (subfolder or "") / CONFIG_NAME).stat()
    except (OSError, RuntimeError, ValueError):
        return None
    return found.st_ino, found.st_mtime_ns


def _other_bits(codebook: Codebook, config: VecInferConfig) -> str | None:
    """Return which bits that were asked for contradict the codebook, or None."""
    for position, name in enumerate(("key_bits", "value_bits")):
        bits = getattr(config, name)
        if bits is not None:
            stored = {codebook.formats(index)[position].name for index in codebook.layers}
            if stored != {parse_format(bits).name}:
                return (
                    f"{name}={bits} was asked for, but the codebook has {sorted(stored)}; leave {name} out or name "
                    "another codebook."
                )
    return None
