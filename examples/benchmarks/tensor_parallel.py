# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A model with random weights on one GPU, then on all of them (tensor parallel): time per token, bytes, tokens.

torchrun --nproc-per-node 2 -m examples.benchmarks.tensor_parallel --shape llama-3.1-8b --lengths 4096 131072

Prints a JSON line for each measurement: "decode" (of this GPU), "share" (its part of one GPU's cache) and "tokens".
Caches are filled with random tokens before a step is timed, since its time does not depend on them. Tokens are
compared behind a real prompt. Weights are drawn on each GPU from the same seeds, so both placements run one model.
Exits with 1 if something failed or disagrees.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from transformers import PreTrainedConfig, PreTrainedModel, StoppingCriteriaList
from transformers.cache_utils import Cache
from transformers.utils import logging

from vecinfer_hf.evaluation.random_models import LLAMA_8B, QWEN3_32B, shape_config
from vecinfer_hf.evaluation.speed import TokenClock, release
from vecinfer_hf.integration.compat import cache_argument

from .caches import STOCK, STOCK_STATIC, CacheKind, fill_randomly, vecinfer
from .measure import WARM_UP, cache_nbytes
from .parallel_models import make_model, own_nbytes, processes
from .synchronizations import synchronizations_per_token


KINDS = {
    "default": STOCK,
    "default-static": STOCK_STATIC,
    "growing": vecinfer(2, static=False),
    "static": vecinfer(2),
}
SPARE = 0.05
"""What a process's share of a cache's bytes may exceed its share of the heads by."""
ROUNDING = 4
"""How many times the difference of the default cache's logits those of codes may have between two placements."""


ALONE = "one process"


class Answer(NamedTuple):
    """Greedy tokens behind a prompt, int64 `[n]`, and the logits of each choice, float32 `[n, V]`, on the CPU."""

    tokens: torch.Tensor
    logits: torch.Tensor


class Output:
    """The JSON lines of rank 0, and whether all is well."""

    def __init__(self):
        self.failed = False
        self.cache_bytes: dict[tuple[str, int], int] = {}

    def share(self, name: str, length: int, nbytes: int, split: bool) -> None:
        """Note one process's cache, and print what share of it each of several processes has."""
        if not split:
            self.cache_bytes[name, length] = nbytes
        elif (name, length) in self.cache_bytes:
            share = nbytes / self.cache_bytes[name, length]
            entries = {"what": "share", "cache": name, "length": length, "share": round(share, 4)}
            if share > 1 / dist.get_world_size() + SPARE:
                entries["problem"] = "a process holds more than its share"
            self.line(**entries)

    def line(self, **entries: Any) -> None:
        """Print one measurement."""
        self.failed |= bool(entries.get("problem"))
        if dist.get_rank() == 0:
            print(json.dumps(entries), flush=True)


def answer(model: PreTrainedModel, cache: Cache, prompt: int, tokens: int) -> Answer:
    """Read a random prompt and generate greedily."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (1, prompt), generator=generator).to(model.device)
    result = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        **cache_argument(cache),
        max_new_tokens=tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return Answer(result.sequences[0, prompt:].cpu(), torch.cat(result.logits).float().cpu())


def decode_seconds(model: PreTrainedModel, cache: Cache, length: int, tokens: int) -> float:
    """Return the median seconds per token of `generate` behind `length` random tokens in the cache."""
    clock, generator = TokenClock(), torch.Generator().manual_seed(length)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, length + 1), generator=generator).to(model.device)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        **cache_argument(cache),
        max_new_tokens=tokens,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    return statistics.median(clock.steps()[WARM_UP:])


def answer_behind(model: PreTrainedModel, cache: Cache, tokens: int) -> None:
    """Generate `tokens` tokens behind what the cache holds."""
    ids = torch.ones(1, int(cache.get_seq_length()) + 1, dtype=torch.long, device=model.device)
    mask = torch.ones_like(ids)
    model.generate(ids, attention_mask=mask, **cache_argument(cache), max_new_tokens=tokens, do_sample=False)


def anywhere(flag: bool, device: torch.device) -> bool:
    """Return whether `flag` is True in any process."""
    flags = torch.tensor([int(flag)], device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def filled(model: PreTrainedModel, kind: CacheKind, cache: Cache | None, length: int, room: int) -> Cache | None:
    """Return a cache that holds `length` random tokens, or None if a process has no memory for it."""
    full = False
    try:
        if cache is None:
            cache = kind.make(model, room)
        fill_randomly(cache, model, 1, length)
    except torch.OutOfMemoryError:
        cache, full = None, True
    # Before any step, so that no process waits for one that has given up.
    return None if anywhere(full, model.device) else cache


def measure(
    model: PreTrainedModel, name: str, placement: str, arguments: argparse.Namespace, output: Output
) -> Answer:
    """Print the time per token of one kind of cache at each length, and return its answer to the prompt."""
    kind, started = KINDS[name], time.perf_counter()
    cuda, split = model.device.type == "cuda", placement != ALONE
    # Room for the profiled steps behind the timed ones.
    extra = 4 * arguments.tokens if arguments.profile else arguments.tokens
    size = max(arguments.prompt, *arguments.lengths) + extra + 1
    release()
    reused = kind.bits is not None and kind.static
    cache = kind.make(model, size if reused else arguments.prompt + arguments.tokens + 1)
    found = answer(model, cache, arguments.prompt, arguments.tokens)
    for length in arguments.lengths:
        if reused:
            cache.reset()
        else:
            cache = None
            release()
        cache = filled(model, kind, cache, length, size if reused else length + extra + 1)
        entries = {"what": "decode", "placement": placement, "cache": name, "length": length}
        if cache is None:
            # The default cache of one GPU may not fit; that is a result.
            fits = {"problem": "out of memory"} if kind.bits else {"note": "out of memory"}
            output.line(**entries, **fits)
            continue
        if cuda:
            torch.cuda.reset_peak_memory_stats(model.device)
        seconds = decode_seconds(model, cache, length, arguments.tokens)
        output.line(
            **entries,
            milliseconds=round(seconds * 1e3, 3),
            cache_bytes=cache_nbytes(cache),
            weight_bytes=own_nbytes(model),
            peak_bytes=torch.cuda.max_memory_allocated(model.device) if cuda else None,
            seconds_so_far=round(time.perf_counter() - started, 1),
        )
        output.share(name, length, cache_nbytes(cache), split)
    if arguments.profile and cache is not None:
        layers = len(cache.layers)
        count = synchronizations_per_token(lambda tokens: answer_behind(model, cache, tokens), arguments.tokens)
        entries = {"what": "synchronizations", "placement": placement, "cache": name, "per_token": count}
        if cuda and name == "static" and count >= layers:
            entries["problem"] = f"as many as the {layers} layers"
        output.line(**entries)
    cache = None
    release()
    return found


def compared(name: str, one: Answer, all_: Answer, default: float | None) -> dict[str, Any]:
    """Return how two placements' answers agree; tokens may differ from where two logits are closer than rounding.

    Args:
        name: the cache.
        one: on one GPU.
        all_: on all of them.
        default: mean difference of the default cache's logits, or None for that cache itself.
    """
    same = (one.tokens == all_.tokens).tolist()
    equal = same.index(False) if False in same else len(same)
    # Up to the first other token both have read the same text.
    rows = slice(0, min(equal + 1, len(same)))
    difference = (one.logits[rows] - all_.logits[rows]).abs()
    entries: dict[str, Any] = {
        "what": "tokens",
        "cache": name,
        "equal": equal,
        "of": len(same),
        "mean_difference": difference.mean().item(),
        "largest_difference": difference.max().item(),
    }
    if equal < len(same):
        best = one.logits[equal].topk(2).values
        entries["margin"] = (best[0] - best[1]).item()
        if entries["margin"] > 2 * difference[-1].max().item():
            entries["problem"] = "a token differs where the logits do not explain it"
    if default is not None and entries["mean_difference"] > ROUNDING * max(default, 1e-6):
        entries["problem"] = f"logits differ by more than {ROUNDING} times as much as the default cache's ({default})"
    return entries


def parallel_and_alone(config: PreTrainedConfig, arguments: argparse.Namespace, output: Output) -> None:
    """Measure every cache on one GPU and on all, then compare the answers."""
    answers: dict[tuple[str, bool], Answer] = {}
    for split in (False, True):
        placement = f"{dist.get_world_size()} processes" if split else ALONE
        model = make_model(config, split)
        for name in arguments.caches:
            answers[name, split] = measure(model, name, placement, arguments, output)
        del model
        gc.collect()
        release()
    default = None
    for name in arguments.caches:
        entries = compared(name, answers[name, False], answers[name, True], default)
        if name == "default":
            default = entries["mean_difference"]
        output.line(**entries)


def main(given: list[str] | None = None) -> int:
    """Run the benchmark on this process of torchrun's; return 0, or 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape", default=LLAMA_8B, help=f"{LLAMA_8B}, {QWEN3_32B}, or a directory with a config.json"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 131072], help="tokens in the cache")
    parser.add_argument("--caches", nargs="+", choices=list(KINDS), default=["default", "growing", "static"])
    parser.add_argument(
        "--prompt", type=int, default=2048, help="tokens of the prompt behind which tokens are compared"
    )
    parser.add_argument("--tokens", type=int, default=32, help=f"tokens to generate; {WARM_UP} are not timed")
    parser.add_argument("--profile", action="store_true", help="count host synchronizations per token as well")
    arguments = parser.parse_args(given)
    if arguments.tokens < WARM_UP + 2:
        parser.error(f"--tokens {arguments.tokens}: the first {WARM_UP} are not timed, so use at least {WARM_UP + 2}")
    logging.set_verbosity_error()
    output = Output()
    with processes() as size:
        config = shape_config(arguments.shape)
        cuda = torch.cuda.is_available()
        output.line(
            what="run",
            shape=arguments.shape,
            processes=size,
            device=torch.cuda.get_device_name() if cuda else "cpu",
            torch=torch.__version__,
            cuda=torch.version.cuda,
        )
        parallel_and_alone(config, arguments, output)
    return int(output.failed)


if __name__ == "__main__":
    sys.exit(main())
