# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`make_codebook`: a codebook for a model from nothing but the model, within a time and the free memory.

    the user's texts, or text the model writes + excerpts of the package -> calibrate -> quality on held-back text

Owns the text that is read and held back, and the limits of quality. auto_plan.py owns time and memory, own_text.py the
writing, calibrate.py the calibration.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from ..calibration_config import CalibrationConfig
from ..codebook.codebook import Codebook
from ..codebook.fingerprint import quantization_of, weights_fingerprint
from ..distributed.devices import layer_devices
from ..distributed.heads import head_shard
from ..errors import UnsupportedModelError
from ..model_info import text_config
from .attention import attention_function, plain_attention
from .auto_plan import Plan, make_plan
from .calibrate import calibrate
from .fake_quantization import LayerFakeQuantizer
from .loss import QuantizationLoss, quantization_loss
from .model_state import evaluation_mode
from .own_text import write_text
from .progress import progress_bars
from .requirements import calibratable_model
from .text import EXCERPTS, load_text
from .windows import text_windows


logger = logging.get_logger(__name__)

READ, HELD_BACK = EXCERPTS
"""The excerpt that calibration reads beside the model's own text, and the one that quality is measured on."""
EXCERPT_SHARE = 0.5
"""Share of the windows that is taken from the excerpt; the model writes the others."""
MEAN_BITS, MORE_BITS = 2.0, 3.0
MOST_KL, MOST_RATIO = 0.04, 1.03
"""KL divergence and perplexity ratio on held-back text above which a codebook gets `MORE_BITS`."""
_RETRIEVAL = 0.25
_MEASURED_WINDOWS = 2


@torch.inference_mode(False)
def make_codebook(
    model: PreTrainedModel,
    tokenizer: Any = None,
    texts: Any = None,
    *,
    key_bits: float | str | None = None,
    value_bits: float | str | None = None,
    budget: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Codebook:
    """Make a codebook for `model` from text that it writes itself, and measure what it costs.

        make_codebook(model)                          # what `enable(model)` does where it finds none
        make_codebook(model, tokenizer, texts=...)    # from your text

    Without texts the model writes in batches, from a text's beginning and as answers in a chat; half of what is read
    is an excerpt of a novel that comes with the package. Recipe, window, tokens and iterations are chosen by short
    measurements of this machine; what was chosen is announced and recorded. Nothing is downloaded.

    Args:
        model: as for `calibrate`.
        tokenizer: its tokenizer; None for the one that lies with the model. Without any, the model's own text is all
            that is read and measured on.
        texts: what `calibrate` accepts, instead of the model's own text.
        key_bits: bits per key element; None for a mean of 2 bits, spent where they matter.
        value_bits: likewise of values.
        budget: seconds it may take, roughly; None for 60 on a GPU and 150 on a CPU.
        seed: seed of text and calibration.
        progress: show progress bars on standard error.

    Returns:
        A `Codebook` with the weights' fingerprint, `provenance["plan"]` and `metrics["held_back"]`.

    Raises:
        UnsupportedModelError, ConfigError: as `calibrate`.
    """
    started = time.monotonic()
    config = auto_config(key_bits, value_bits, seed)
    model, _ = calibratable_model(model, config)
    if (size := head_shard(model).size) > 1:
        raise UnsupportedModelError(
            f"No codebook can be made by the clock in {size} processes (tensor parallel): each would plan another "
            "calibration. Use `calibrate` with a CalibrationConfig, or name a codebook."
        )
    tokenizer = tokenizer or model_tokenizer(model)
    if tokenizer is None:
        config = replace(config, retrieval_fraction=None)
    with evaluation_mode(model):
        write = None if texts is not None else _writing_time(model, tokenizer, seed)
        plan = make_plan(model, config, budget, write, 1 - EXCERPT_SHARE if tokenizer is not None else 1.0)
    _announce(model, plan, tokenizer)
    held_back = None
    if texts is None:
        texts, held_back = _written(model, tokenizer, plan, progress)
    codebook = calibrate(model, texts, config=plan.config, tokenizer=tokenizer, progress=progress)
    if tokenizer is not None:
        length = codebook.config.sequence_length
        held_back = text_windows(tokenizer, load_text(HELD_BACK), length, _MEASURED_WINDOWS)
    quality = _quality(model, codebook, held_back)
    spent = time.monotonic() - started
    if quality is not None and not _good(quality) and key_bits is None and value_bits is None:
        logger.warning(f"vecinfer: {_words(quality)} at {MEAN_BITS:g} bits is above the limit; using {MORE_BITS:g}.")
        more = {"allocate": MORE_BITS} if plan.config.allocate is not None else {"key_bits": 4}
        more = replace(plan.config, **more)
        codebook = calibrate(model, texts, config=more, tokenizer=tokenizer, progress=progress)
        quality = _quality(model, codebook, held_back)
    codebook.weights_fingerprint = weights_fingerprint(model)
    if quantization_of(model.config) is not None:
        codebook.provenance["quantization"] = quantization_of(model.config)
    codebook.provenance["plan"] = {
        "rows": plan.rows,
        "row_length": plan.row_length,
        "expected_seconds": round(plan.seconds, 1),
        "expected_bytes": plan.nbytes,
        "seconds": round(time.monotonic() - started, 1),
        "why": plan.why,
    }
    if quality is not None:
        codebook.metrics["held_back"] = {
            "text": "own text" if tokenizer is None else HELD_BACK,
            "kl_divergence": round(quality.kl, 5),
            "perplexity_ratio": round(quality.perplexity_ratio, 5),
        }
    _report(codebook, quality, spent)
    return codebook


def auto_config(key_bits: float | str | None, value_bits: float | str | None, seed: int = 0) -> CalibrationConfig:
    """Return the config of a codebook that is made without being asked for; the plan fills in the rest."""
    if key_bits is None and value_bits is None:
        return CalibrationConfig(allocate=MEAN_BITS, retrieval_fraction=_RETRIEVAL, seed=seed)
    bits = {"key_bits": key_bits, "value_bits": value_bits}
    given = {name: value for name, value in bits.items() if value is not None}
    return CalibrationConfig(**given, retrieval_fraction=_RETRIEVAL, seed=seed)


def model_tokenizer(model: PreTrainedModel) -> Any:
    """Return the tokenizer that lies with the model on this machine, or None; nothing is downloaded."""
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
        size = getattr(model.get_input_embeddings(), "num_embeddings", None) or text_config(model.config).vocab_size
        usable = max(tokenizer("The quick brown fox")["input_ids"]) < size
    except Exception as error:  # whatever a directory without a tokenizer, or with a strange one, makes of it
        logger.info(f"vecinfer: no tokenizer at {name}: {error}")
        return None
    return tokenizer if usable else None


def _quality(model: PreTrainedModel, codebook: Codebook, windows: torch.Tensor | None) -> QuantizationLoss | None:
    """Return what the codebook costs on windows int64 `[windows, T]` that calibration did not read; None for none."""
    if windows is None:
        return None
    devices = layer_devices(model, list(codebook.layers))
    layers = {
        index: LayerFakeQuantizer(layer).to(devices[index]).requires_grad_(False)
        for index, layer in codebook.layers.items()
    }
    config = codebook.config
    with evaluation_mode(model), torch.no_grad():
        return quantization_loss(
            model,
            layers,
            windows,
            sink_length=config.sink_length,
            residual_length=config.residual_length,
            sink_choice=config.sink_choice,
            from_start=False,
        )


def _writing_time(model: PreTrainedModel, tokenizer: Any, seed: int):
    """Return the measurement that `make_plan` asks for: (rows, tokens) -> seconds of a step."""

    def measure(rows: int, tokens: int) -> float:
        times: list[float] = []

        def stop(_: int) -> bool:
            times.append(time.perf_counter())
            return len(times) < 6

        with attention_function(model, plain_attention):
            write_text(model, tokenizer, rows, tokens, seed=seed, go_on=stop)
        # Steps grow with the text; the first one reads the beginnings.
        return 1.2 * (times[-1] - times[1]) / max(1, len(times) - 2)

    return measure


def _written(
    model: PreTrainedModel, tokenizer: Any, plan: Plan, progress: bool
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """Return windows int64 `[windows, T]` by name: what the model writes, and the excerpt; and a window held back.

    With a tokenizer quality is measured on another excerpt, and nothing is held back of what the model writes.
    """
    config = plan.config
    length = config.sequence_length
    with evaluation_mode(model), attention_function(model, plain_attention), progress_bars(progress) as bar:
        advance = bar("Writing text", plan.row_length)

        def step(_: int) -> bool:
            advance(1)
            return True

        own = write_text(model, tokenizer, plan.rows, plan.row_length, seed=config.seed, go_on=step)
    # Whole rows, one behind the other, as documents packed for training.
    flat = own.flatten()
    if len(flat) < length:
        flat = flat.repeat(-(-length // len(flat)))
    available = len(flat) // length
    excerpt = 0
    if tokenizer is not None:
        excerpt = max(plan.windows - available, round(EXCERPT_SHARE * plan.windows))
    count = max(1, min(available, plan.windows - excerpt))
    windows = flat[: available * length].view(available, length)
    if tokenizer is None and available > 1:
        return {"own text": windows[: min(count, available - 1)]}, windows[-1:]
    texts: dict[str, Any] = {"own text": windows[:count]}
    if excerpt:
        texts[READ] = text_windows(tokenizer, load_text(READ), length, excerpt)
    return texts, None


def _good(quality: QuantizationLoss) -> bool:
    return quality.kl <= MOST_KL and quality.perplexity_ratio <= MOST_RATIO


def _words(quality: QuantizationLoss) -> str:
    return f"KL divergence {quality.kl:.4f}, perplexity ratio {quality.perplexity_ratio:.4f} on held-back text"


def _announce(model: PreTrainedModel, plan: Plan, tokenizer: Any) -> None:
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    text = (
        f"vecinfer: making a codebook for {name}: about {plan.seconds:.0f} s and {plan.nbytes / 1e9:.1f} GB beside "
        f"the weights ({plan.windows} windows of {plan.config.sequence_length} tokens)."
    )
    if plan.why:
        text += f" Note: {plan.why}."
    if tokenizer is None:
        text += " No tokenizer was found beside the model, so it writes from random tokens; give one for better text."
    logger.warning(text)


def _report(codebook: Codebook, quality: QuantizationLoss | None, seconds: float) -> None:
    measured = "too little text to measure its quality" if quality is None else _words(quality)
    text = f"vecinfer: made {codebook!r} in {seconds:.0f} s; {measured}."
    if quality is not None and not _good(quality):
        text += (
            f" That is above the limit (KL {MOST_KL}, ratio {MOST_RATIO}): give text like yours and more time "
            "(make_codebook(model, tokenizer, texts, budget=600)), or ask for more bits (key_bits=4)."
        )
    logger.warning(text)
