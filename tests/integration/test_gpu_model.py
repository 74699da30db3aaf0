# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2 on a GPU: the compiled kernels generate what the torch operators generate, and as well."""

import copy
import math

import pytest
import torch

from vecinfer_hf import VecInferCache
from vecinfer_hf.calibration.text import load_text
from vecinfer_hf.evaluation import text_windows
from vecinfer_hf.integration.attention_switch import use_vecinfer_attention
from vecinfer_hf.integration.compat import cache_argument, returned_cache


pytestmark = [pytest.mark.gpu, pytest.mark.realmodel]
CODEBOOK = "SmolLM2-135M-Instruct/2bit"
CHUNK = 16


@pytest.fixture(scope="module")
def model(smollm2_path):
    """SmolLM2 in bfloat16 on the GPU."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.bfloat16).to("cuda").eval()


@pytest.fixture(scope="module")
def text_ids(smollm2_tokenizer):
    """2048 tokens of the bundled held-out excerpt."""
    return smollm2_tokenizer(load_text("northanger-excerpt"), return_tensors="pt").input_ids[:, :2048].to("cuda")


@pytest.fixture(scope="module")
def windows(smollm2_tokenizer):
    """All windows of 2048 tokens of both bundled excerpts."""
    texts = [load_text(name) for name in ("northanger-excerpt", "persuasion-excerpt")]
    return torch.cat([text_windows(smollm2_tokenizer, text, 2048) for text in texts]).to("cuda")


@torch.no_grad()
def teacher_forced_scores(model, ids, cache, prompt):
    """Float32 log-probabilities after a prompt, 16 tokens at a time through the real cache.

    Not logits: rounding shifts all of a position's alike, which changes no prediction.
    """
    use_vecinfer_attention(model)
    model(ids[:, :prompt], **cache_argument(cache))
    for start in range(prompt, ids.shape[1], CHUNK):
        yield model(ids[:, start : start + CHUNK], **cache_argument(cache)).logits.float().log_softmax(-1)


def first_difference(outputs):
    """The first place at which two texts `[1, T]` differ, or None."""
    places = (outputs[0] != outputs[1]).nonzero()
    return int(places[0, 1]) if len(places) else None


def test_greedy_tokens_agree_or_differ_within_rounding(model, text_ids):
    prompt = text_ids[:, :512]
    outputs = [
        model.generate(
            prompt,
            max_new_tokens=256,
            min_new_tokens=256,
            do_sample=False,
            cache_implementation="vecinfer",
            cache_config={"codebook": CODEBOOK, "ops_backend": backend},
        )
        for backend in ("cuda", "reference")
    ]
    first = first_difference(outputs)
    if first is None:
        return
    # Same tokens up to `first`: there the two candidates must be closer than the backends' scores differ.
    common = outputs[0][:, :first]
    caches = [VecInferCache(model.config, CODEBOOK, ops_backend=backend) for backend in ("cuda", "reference")]
    ours, reference = (list(teacher_forced_scores(model, common, cache, 512))[-1][0, -1] for cache in caches)
    rounding = (ours - reference).abs().max()
    candidates = reference[outputs[0][0, first]], reference[outputs[1][0, first]]
    print(f"first difference at token {first - 512}: gap {candidates[0] - candidates[1]:.4f}, rounding {rounding:.4f}")
    assert abs(candidates[0] - candidates[1]) <= 2 * rounding


def test_scores_err_no_more_than_twice_as_much_as_torch_in_bfloat16(model, text_ids):
    """The yardstick is the same model and cache in float32; codes that rounding moved are in both errors."""
    scores = {}
    for name, backend in (("kernels", "cuda"), ("torch", "reference"), ("float32", "reference")):
        runs = copy.deepcopy(model).float() if name == "float32" else model
        cache = VecInferCache(runs, CODEBOOK, ops_backend=backend)
        scores[name] = torch.cat(list(teacher_forced_scores(runs, text_ids[:, :1024], cache, 512)), dim=1)
    errors = {name: (scores[name] - scores["float32"]).square().mean().sqrt().item() for name in ("kernels", "torch")}
    print(f"root mean square error of log-probabilities in bfloat16: {errors}")
    assert errors["kernels"] <= 2 * errors["torch"]


def test_perplexity_agrees(model, windows):
    losses = []
    for backend in ("cuda", "reference"):
        cache = VecInferCache(model.config, CODEBOOK, ops_backend=backend)
        parts, start = [], 256
        for scores in teacher_forced_scores(model, windows, cache, start):
            targets = windows[:, start + 1 : start + 1 + scores.shape[1], None]
            parts.append(-scores[:, : targets.shape[1]].gather(-1, targets).squeeze(-1))
            start += scores.shape[1]
        losses.append(torch.cat(parts, dim=1).double())
        assert cache.quantized_layers[0].read_lengths().quantized == [2048 - 4 - 128] * len(windows)
    ours, reference = losses
    ratio, spread = math.exp((ours - reference).mean()), (ours - reference).std() / ours.numel() ** 0.5
    print(
        f"perplexity of {ours.numel()} tokens: kernels {math.exp(ours.mean()):.4f}, "
        f"reference {math.exp(reference.mean()):.4f}, ratio {ratio:.5f}, standard error {spread:.5f}"
    )
    # Enough text that chance alone does not decide: single tokens differ by rounding, either way.
    assert spread < 0.001
    assert abs(ratio - 1) < 0.002


def test_generate_uses_the_kernels_by_itself(model, text_ids):
    output = model.generate(
        text_ids[:, :512],
        max_new_tokens=32,
        do_sample=False,
        cache_implementation="vecinfer",
        cache_config={"codebook": CODEBOOK},
        return_dict_in_generate=True,
    )
    layer = returned_cache(output).quantized_layers[0]
    assert layer.ops.name == "cuda"
    assert layer.buffers.quantized_lengths.tolist() == layer.read_lengths().quantized


def test_static_cache_compiles_and_agrees(model, text_ids):
    outputs = [
        model.generate(
            text_ids[:, :512],
            max_new_tokens=64,
            min_new_tokens=64,
            do_sample=False,
            cache_implementation="vecinfer",
            cache_config={"codebook": CODEBOOK, "static": static},
        )
        for static in (True, False)
    ]
    first = first_difference(outputs)
    if first is None:
        return
    # Compiled and eager layers round differently: then the two candidates must be as good as equal, within a few steps
    # of the bfloat16 in which logits of their size are.
    common = outputs[0][:, :first]
    scores = list(teacher_forced_scores(model, common, VecInferCache(model.config, CODEBOOK), 512))[-1][0, -1]
    candidates = [int(output[0, first]) for output in outputs]
    gap = abs(scores[candidates[0]] - scores[candidates[1]]).item()
    with torch.no_grad():
        size = model(common).logits[0, -1, candidates].abs().max().item()
    print(f"first difference at token {first - 512}: gap {gap:.4f}, logits of {size:.1f}")
    assert gap <= 4 * 2**-8 * size
