# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What processes that run one model together compute for the tests, each beside the same model in one process.

Models have float64 weights, so that another order of sums changes states by 1e-16, which their norms in float32 mostly
hide. In float32 a change in the last bit now and then decides which centroid is nearest; that is no rounding error.
"""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache
from transformers.distributed.configuration_utils import DistributedConfig

import vecinfer_hf
from vecinfer_hf import CalibrationConfig, VecInferCache, calibrate, disable, enable
from vecinfer_hf.calibration.auto_codebook import make_codebook
from vecinfer_hf.calibration.gradients import record_gradients
from vecinfer_hf.calibration.recorder import of_all_heads
from vecinfer_hf.integration.compat import cache_argument


OPTIONS = {"residual_length": 16, "sink_length": 4}
PROMPT, TOKENS = 70, 84


@contextmanager
def shared_directory():
    """Give all processes the same new directory."""
    with tempfile.TemporaryDirectory() as name:
        names = [name]
        dist.broadcast_object_list(names)
        yield Path(names[0])


def loaded(family, heads, dtype=torch.float64, changes=None, **keywords):
    """Return (the model over all processes, the same model in this process).

    Args:
        family: of tiny_models.py.
        heads: key/value heads.
        dtype: of the weights.
        changes: further changes of the config, or None.
        keywords: for `from_pretrained` of the first one.
    """
    # Output widths that two processes can share, as transformers 5.17 asks.
    sizes = {"vocab_size": 96, "num_key_value_heads": heads, "num_attention_heads": 2 * heads, **(changes or {})}
    with shared_directory() as directory:
        # Only rank 0 writes, which is transformers' rule.
        tiny_model(family, dtype=dtype, hidden_size=32 * heads, **sizes).save_pretrained(directory)
        dist.barrier()
        config = DistributedConfig(tp_plan="auto")
        both = (
            AutoModelForCausalLM.from_pretrained(directory, distributed_config=config, dtype=dtype, **keywords),
            AutoModelForCausalLM.from_pretrained(directory, dtype=dtype),
        )
        dist.barrier()
    for model in both:
        model.generation_config.eos_token_id = None
        model.eval()
    return both


def ids(rows=1, length=TOKENS, seed=0):
    return tiny_inputs(rows, length, seed=seed, vocab_size=96)


@torch.no_grad()
def logits_with(model, cache):
    """Return the logits of a prompt, one-token steps, and a few tokens at once, float64 `[tokens, vocabulary]`."""
    text, found = ids(), []
    for start, stop in ((0, PROMPT), *((n, n + 1) for n in range(PROMPT, TOKENS - 4)), (TOKENS - 4, TOKENS)):
        found.append(model(text[:, start:stop], **cache_argument(cache)).logits[0])
    return torch.cat(found)


def coded_logits(model, codebook, from_config=False, **options):
    """Return the logits over a cache of codes, the cache, and how many tokens of it are codes."""
    model.set_attn_implementation("vecinfer")
    cache = VecInferCache(model.config if from_config else model, codebook, **OPTIONS, **options)
    found = logits_with(model, cache)
    return found, cache, int(cache.quantized_layers[0].buffers.quantized_lengths[0])


def compared(together, alone, codebook, **options):
    """Return how a cache over all processes differs from one process's: logits, bytes, coded tokens."""
    whole, one, coded = coded_logits(alone, codebook, **options)
    split, own, own_coded = coded_logits(together, codebook, from_config=True, **options)
    again = VecInferCache(together, own.codebook, **OPTIONS, **options).codebook
    assert again is own.codebook or codebook == "online"
    return {
        "difference": (split - whole).abs().max().item(),
        "largest": whole.abs().max().item(),
        "coded": [own_coded, coded],
        "nbytes": [own.nbytes, one.nbytes],
        "heads": own.codebook.head_shape(0).num_key_value_heads,
    }


def caches(family, heads, dtype=torch.float64, **changes):
    """Return the comparison of both kinds of cache with a codebook that one process made."""
    together, alone = loaded(family, heads, dtype, changes)
    codebook = random_codebook(alone.config, kind="matrix", mean=True)
    return {
        "growing": compared(together, alone, codebook),
        "static": compared(together, alone, codebook, static=True, max_cache_len=TOKENS),
    }


def some(cases):
    """Return what the default tests look at, in one start of the processes."""
    return {
        "caches": {f"{family} {heads}": caches(family, heads) for family, heads in cases},
        "default": calibrated(recipe="default"),
        "enabled": enabled(),
        "refused": refused(),
    }


def others(cases):
    """Return the rest: other shapes and recipes, online, refinement, allocation, compiled steps, float32."""
    found = {
        "caches": {f"{family} {heads}": caches(family, heads) for family, heads in cases},
        # Products of experts are not made for float64.
        "mixture": caches("qwen3_moe", 4, torch.float32),
        "tied": caches("llama", 4, tie_word_embeddings=True),
        "online": compared(*loaded("llama", 4), "online"),
        "query": calibrated(recipe="query"),
        "refined": calibrated(recipe="query", refine_steps=3),
        "allocated": calibrated(recipe="query", allocate=2.0),
        "compiled": compiled(),
    }
    together, alone = loaded("llama", 4, torch.float32)
    stock = [logits_with(model, DynamicCache(config=model.config)) for model in (together, alone)]
    found["float32"] = compared(together, alone, random_codebook(alone.config))
    found["float32"]["default"] = (stock[0] - stock[1]).abs().max().item()
    return found


def calibrated(family="llama", **options):
    """Calibrate on all processes and in one, and compare states, codebooks and what generation makes of them."""
    together, alone = loaded(family, 4)
    text = ids(6, 128, seed=5)
    options = {"sequence_length": 128, "num_tokens": text.numel(), "num_samples": 400, **OPTIONS, **options}
    config = CalibrationConfig(**options)
    split, one = (calibrate(model, text, config=config, progress=False) for model in (together, alone))
    found = {"compared": compared(together, alone, split), "heads": split.head_shape(0).num_key_value_heads}
    found["errors"] = [[list(error) for error in codebook.errors] for codebook in (split, one)]
    found["codes"] = max(
        (mine != theirs).float().mean().item()
        for index in one.layers
        for mine, theirs in zip(split.layers[index], one.layers[index], strict=True)
        if mine is not None and mine.dtype == torch.int8
    )
    if config.recipe == "default":
        states, expected = (
            of_all_heads(model, record_gradients(model, text, [0, 1], residual_length=16, num_samples=400))
            for model in (together, alone)
        )
        # Of gradients only the size beside the largest counts: those of sinks are 0.
        found["gradients"] = max(
            ((getattr(states[index], name) - value).abs().max() / value.abs().max()).item()
            for index in expected
            for name, value in vars(expected[index]).items()
        )
    with tempfile.TemporaryDirectory() as name:
        # Every process saves it for itself, and one process loads it.
        split.save_pretrained(name)
        found["saved"] = compared(together, alone, name)["difference"]
    return found


def enabled():
    """Generate with `enable`, with one call's keywords and from a config given to from_pretrained; then disable."""
    together, alone = loaded("qwen3", 4)
    found, codebook = {}, random_codebook(alone.config, kind="matrix")
    call = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    for name, options in (("growing", {}), ("static", {"static": True})):
        results = []
        for model in (together, alone):
            enable(model, codebook, **OPTIONS, **options)
            results.append(model.generate(ids(2, 60), **call))
            disable(model)
        found[name] = {
            "tokens": [result.sequences.tolist() for result in results],
            "difference": (torch.stack(results[0].logits) - torch.stack(results[1].logits)).abs().max().item(),
            "largest": torch.stack(results[1].logits).abs().max().item(),
        }
    with tempfile.TemporaryDirectory() as name:
        codebook.save_pretrained(name)
        loading = {"quantization_config": vecinfer_hf.VecInferConfig(name, **OPTIONS)}
        result = loaded("qwen3", 4, **loading)[0].generate(ids(2, 60), **call)
        found["from_pretrained"] = result.sequences.tolist()
    return found


def refused():
    """Return the errors of one key/value head for two processes, and of a codebook made by the clock."""
    together, _ = loaded("llama", 1)
    before, found = dict(vars(together)), {}
    for name, action in (
        ("enable", lambda: enable(together, "online")),
        ("cache", lambda: VecInferCache(together.config, "online")),
        ("calibrate", lambda: calibrate(together, ids(4, 128), progress=False)),
    ):
        try:
            action()
        except vecinfer_hf.errors.UnsupportedModelError as error:
            found[name] = str(error)
    found["unchanged"] = dict(vars(together)) == before
    try:
        make_codebook(loaded("llama", 2)[0], progress=False)
    except vecinfer_hf.errors.UnsupportedModelError as error:
        found["make_codebook"] = str(error)
    return found


def compiled():
    """Generate with compiled decode steps of a static cache, and without compiling; tokens of both."""
    from transformers import CompileConfig

    together, alone = loaded("llama", 4)
    codebook, found = random_codebook(alone.config), []
    compile_config = CompileConfig(backend="eager", mode="default", fullgraph=False)
    compile_config._compile_all_devices = True
    for model, options in ((together, {"compile_config": compile_config}), (alone, {})):
        enable(model, codebook, static=True, **OPTIONS)
        found.append(model.generate(ids(1, 60), max_new_tokens=8, do_sample=False, **options).tolist())
    return found
