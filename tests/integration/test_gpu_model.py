# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SmolLM2 on a GPU: the compiled kernels generate what the torch operators generate, and as well."""

import math

import pytest
import torch

from vecinfer_hf import VecInferCache
from vecinfer_hf.assets import load_text
from vecinfer_hf.cache_name import cache_argument, returned_cache
from vecinfer_hf.registration import use_vecinfer_attention


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


def teacher_forced_logits(model, ids, backend, prompt):
    """Float32 logits of every position from `prompt` on, in chunks of 16 through the real cache, and the cache."""
    cache = VecInferCache(model.config, CODEBOOK, ops_backend=backend)
    use_vecinfer_attention(model)
    logits = []
    with torch.no_grad():
        model(ids[:, :prompt], **cache_argument(cache))
        for start in range(prompt, ids.shape[1], CHUNK):
            logits.append(model(ids[:, start : start + CHUNK], **cache_argument(cache)).logits.float())
    return torch.cat(logits, dim=1), cache


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
    differing = (outputs[0] != outputs[1]).nonzero()
    if not len(differing):
        return
    first = int(differing[0, 1])
    # Same tokens up to `first`: there the two candidates must be closer than the backends' logits differ.
    common = outputs[0][:, :first]
    ours, reference = (
        teacher_forced_logits(model, common, backend, 512)[0][0, -1] for backend in ("cuda", "reference")
    )
    rounding = (ours - reference).abs().max()
    candidates = reference[outputs[0][0, first]], reference[outputs[1][0, first]]
    print(f"first difference at token {first - 512}: gap {candidates[0] - candidates[1]:.4f}, rounding {rounding:.4f}")
    assert abs(candidates[0] - candidates[1]) <= 2 * rounding
    # Rounding moves some keys across the border of two centroids, but it must stay below what quantizing does at all.
    with torch.no_grad():
        stock = model(common).logits[0, -1].float()
    assert (ours - reference).square().mean() < 0.5 * (reference - stock).square().mean()


def test_perplexity_agrees(model, text_ids):
    losses = []
    for backend in ("cuda", "reference"):
        logits, cache = teacher_forced_logits(model, text_ids, backend, 256)
        targets = text_ids[:, 257:]
        losses.append(torch.nn.functional.cross_entropy(logits[0, : targets.shape[1]], targets[0]).item())
        assert cache.quantized_layers[0].quantized_lengths == [2048 - 4 - 128]
    ratio = math.exp(losses[0] - losses[1])
    print(f"perplexity kernels {math.exp(losses[0]):.4f}, reference {math.exp(losses[1]):.4f}, ratio {ratio:.5f}")
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
    assert layer.ops.__name__ == "vecinfer_hf.ops.kernels"
    assert layer.buffers.quantized_lengths.tolist() == layer.quantized_lengths


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
    # Compiled and eager layers round differently in bfloat16, so late tokens may differ; the first ones may not.
    assert torch.equal(outputs[0][:, : 512 + 16], outputs[1][:, : 512 + 16])
