# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.benchmarks.codebooks`: what a codebook costs where nobody has made one; one JSON line per row.

    made      make_codebook from nothing, text included: seconds, peak memory, the plan
    online    codebook="online" on a prompt: seconds of the fit, and of the whole prompt with and without it

Weights are random: time and memory do not depend on them, quality does and is not meant.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
import transformers
import typer
from transformers import PreTrainedConfig, PreTrainedModel

from vecinfer_hf import VecInferCache
from vecinfer_hf.calibration.auto_codebook import make_codebook
from vecinfer_hf.cli.app import run
from vecinfer_hf.cli.loading import machine, usable_device
from vecinfer_hf.evaluation.random_models import LLAMA_8B, random_codebook, random_model, shape_config
from vecinfer_hf.integration.compat import cache_argument
from vecinfer_hf.integration.enable import enabled
from vecinfer_hf.model_info import head_shapes
from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.online_fit import fit_online


app = typer.Typer(name="codebooks", add_completion=False, pretty_exceptions_enable=False)

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-oss-20b": ("GptOssConfig", {"num_local_experts": 32}),
    "qwen3-30b-a3b": ("Qwen3MoeConfig", {"hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4,
                                        "head_dim": 128, "moe_intermediate_size": 768}),
    "gemma-3-12b": ("Gemma3TextConfig", {"hidden_size": 3840, "intermediate_size": 15360, "num_attention_heads": 16,
                                        "num_key_value_heads": 8, "head_dim": 256}),
}  # fmt: skip
"""name -> config class and the sizes that are not its defaults."""


def family_config(name: str, layers: int) -> PreTrainedConfig:
    """Return the config of a family's shape with a few layers, half of them with full attention where some slide."""
    class_name, sizes = FAMILIES[name]
    config_class = getattr(transformers, class_name)
    if getattr(config_class(), "layer_types", None):
        sizes = {**sizes, "layer_types": ["sliding_attention", "full_attention"] * (layers // 2)}
    return config_class(**sizes, num_hidden_layers=layers)


def made(name: str, config: PreTrainedConfig, place: torch.device, budget: float, limit: float) -> dict[str, Any]:
    """Make a codebook from nothing and return seconds and bytes; the process may allocate `limit` bytes at most."""
    cuda = place.type == "cuda"
    if cuda:
        total = torch.cuda.get_device_properties(place).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), place)
    try:
        model = random_model(config, torch.bfloat16 if cuda else torch.float32, place)
        weights = torch.cuda.memory_allocated(place) if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats(place)
        started = time.perf_counter()
        codebook = make_codebook(model, budget=budget, progress=False)
        seconds = time.perf_counter() - started
        return {
            "row": "made",
            "model": name,
            "layers": len(codebook.layers),
            "budget": budget,
            "seconds": round(seconds, 1),
            "limit_bytes": limit if cuda else None,
            "weights_bytes": weights,
            "peak_bytes": torch.cuda.max_memory_allocated(place) if cuda else None,
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(place) if cuda else None,
            "plan": codebook.provenance["plan"],
            "config": codebook.config.to_diff_dict(),
            "bits": codebook.bits_per_element,
        }
    finally:
        if cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, place)


@torch.inference_mode()
def online(name: str, config: PreTrainedConfig, place: torch.device, tokens: int) -> dict[str, Any]:
    """Time the online fit of a prompt: of all layers by itself, and as the difference of two prompts."""
    model = random_model(config, torch.bfloat16 if place.type == "cuda" else torch.float32, place)
    ids = torch.randint(config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0)).to(place)
    seconds = {}
    for kind, codebook in (("online", "online"), ("fixed", random_codebook(config, 2))):
        with enabled(model, codebook):

            def prompt(model: PreTrainedModel = model, codebook: Any = codebook) -> None:
                cache = VecInferCache(model, codebook)
                model(ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)

            prompt()
            seconds[kind] = min(timed(prompt, place) for _ in range(2))
    return {
        "row": "online",
        "model": name,
        "tokens": tokens,
        "fit_seconds": round(fit_seconds(config, place, tokens), 4),
        "prompt_seconds": round(seconds["online"], 4),
        "prompt_seconds_fixed_codebook": round(seconds["fixed"], 4),
    }


def fit_seconds(config: PreTrainedConfig, place: torch.device, tokens: int) -> float:
    """Return the seconds of the fits of all layers to random states of a prompt, the first time left out."""
    shapes = list(head_shapes(config).values())
    heads, dim, value_dim = shapes[0]
    generator = torch.Generator(place).manual_seed(0)
    like = {"device": place, "dtype": torch.bfloat16 if place.type == "cuda" else torch.float32}
    keys, values, queries = (
        torch.randn(number, tokens, size, generator=generator, **like)
        for number, size in ((heads, dim), (heads, value_dim), (config.num_attention_heads, dim))
    )
    formats = parse_format(2), parse_format(2)

    def fit() -> None:
        for _ in shapes:
            fit_online(keys, values, *formats, queries)

    fit()
    return timed(fit, place)


def timed(work: Callable[[], Any], place: torch.device) -> float:
    """Return the seconds that `work` takes."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    started = time.perf_counter()
    work()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter() - started


def rows(
    place: torch.device, shape: str, budget: float, limit: float, layers: int, tokens: int
) -> Iterator[dict[str, Any]]:
    """Yield one measurement after another; one that fails is a row that says why."""
    config = shape_config(shape)
    tasks: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        (shape, lambda: online(shape, config, place, tokens)),
        (shape, lambda: made(shape, config, place, budget, limit)),
    ]
    for name in FAMILIES:
        tasks.append((name, lambda name=name: made(name, family_config(name, layers), place, budget / 3, limit)))
    for name, task in tasks:
        try:
            yield task()
        except (RuntimeError, ValueError) as error:
            yield {"row": "failed", "model": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        gc.collect()
        if place.type == "cuda":
            torch.cuda.empty_cache()


@app.command()
def codebooks(
    shape: Annotated[
        str, typer.Option(help=f"{LLAMA_8B}, or a Hub id or directory whose config to use; weights are random.")
    ] = LLAMA_8B,
    budget: Annotated[float, typer.Option(help="Seconds for the shape; the families get a third each.")] = 60.0,
    limit_gb: Annotated[float, typer.Option(help="GB that making a codebook may allocate.")] = 22.0,
    layers: Annotated[int, typer.Option(help="Layers of the families' models.")] = 4,
    tokens: Annotated[int, typer.Option(help="Tokens of the prompt that an online codebook is fitted to.")] = 8192,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default the GPU if there is one.")] = None,
) -> None:
    """Print what making a codebook costs, one JSON object per line."""
    place = usable_device(device)
    print(json.dumps({"row": "machine", "cuda": torch.version.cuda, **machine(place)}), flush=True)
    for row in rows(place, shape, budget, limit_gb * 1e9, layers, tokens):
        print(json.dumps(row), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 on success, 2 on bad input."""
    run(app, arguments)


if __name__ == "__main__":
    main()
