# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Long greedy generation with both caches, judged by the unquantized model.

Owns the judgement; generation.py compares short continuations token by token.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from vecinfer_hf.cache.cache import VecInferCache
from vecinfer_hf.calibration.loss import model_logits
from vecinfer_hf.codebook.codebook import Codebook
from vecinfer_hf.evaluation.attention import attention_set_to
from vecinfer_hf.integration.compat import cache_argument


REPEAT_LENGTH = 8
"""A token counts as repeated if it ends as many tokens that have occurred before in its text."""
_LOGIT_ROWS = 1024


@torch.no_grad()
def judge_continuations(
    model: PreTrainedModel,
    prompts: torch.Tensor,
    codebook: Codebook | str | None = None,
    new_tokens: int = 2000,
    **cache_options,
) -> dict[str, Any]:
    """Generate greedily with the stock cache and with a VecInfer cache, and let the stock model judge both texts.

    Errors of a cache add up over a generated text, which perplexity of given text does not show. Greedy text of a
    small model repeats itself sooner or later and repeated tokens cost nothing, so the figures are also given for
    tokens that are not the end of 8 tokens seen before.

    Args:
        model: a causal language model, left as it was; it generates with its own attention and with "vecinfer".
        prompts: int64 `[P, T]`, without padding.
        codebook: what `VecInferCache` accepts.
        new_tokens: tokens to generate, neither less (the end-of-text token is not allowed) nor more.
        cache_options: further arguments of `VecInferCache`.

    Returns:
        prompts, prompt_tokens, new_tokens, agreement_length (per prompt, tokens until the first difference), and for
        "stock" and "vecinfer": nll (mean over all generated tokens, nats, the stock model reading the text),
        perplexity (its exponential), new_share (share of tokens not repeated), nll_new (mean over those, None without
        any), nll_per_prompt, seconds.
    """
    prompts = prompts.to(model.device)
    sides = {
        "stock": (DynamicCache(config=model.config), model.config._attn_implementation),
        "vecinfer": (VecInferCache(model.config, codebook, **cache_options), "vecinfer"),
    }
    report: dict[str, Any] = {
        "prompts": prompts.shape[0],
        "prompt_tokens": prompts.shape[1],
        "new_tokens": new_tokens,
    }
    texts = []
    for name, (cache, attention) in sides.items():
        started = time.perf_counter()
        with attention_set_to(model, attention):
            text = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                **cache_argument(cache),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
            )
        seconds = time.perf_counter() - started
        report[name] = {**_judged(model, text, prompts.shape[1]), "seconds": seconds}
        texts.append(text[:, prompts.shape[1] :])
    same = (texts[0] == texts[1]).long().cumprod(1).sum(1)
    report["agreement_length"] = same.tolist()
    return report


def _judged(model: PreTrainedModel, text: torch.Tensor, prompt_length: int) -> dict[str, Any]:
    """Mean negative log-likelihoods of `text` `[P, T]` after its prompts under the model with exact attention."""
    nll = torch.stack([_nll(model, row[None], prompt_length) for row in text])
    new = torch.tensor([fresh_tokens(row, prompt_length) for row in text.tolist()])
    mean = nll.mean().item()
    return {
        "nll": mean,
        "perplexity": math.exp(mean),
        "new_share": new.double().mean().item(),
        "nll_new": nll[new].mean().item() if new.any() else None,
        "nll_per_prompt": nll.mean(1).tolist(),
    }


def _nll(model: PreTrainedModel, ids: torch.Tensor, prompt_length: int) -> torch.Tensor:
    """Negative log-likelihood of each token after the prompt, float64 `[T - prompt_length]` on the CPU."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, prompt_length - 1 : -1]
    parts = [
        torch.nn.functional.cross_entropy(model_logits(model, rows), targets, reduction="none").double().cpu()
        for rows, targets in zip(hidden.split(_LOGIT_ROWS), ids[0, prompt_length:].split(_LOGIT_ROWS), strict=True)
    ]
    return torch.cat(parts)


def fresh_tokens(ids: list[int], prompt_length: int, length: int = REPEAT_LENGTH) -> list[bool]:
    """Return for each token after the prompt whether the `length` tokens it ends have not occurred before."""
    seen: set[tuple[int, ...]] = set()
    fresh = []
    for end in range(1, len(ids) + 1):
        piece = tuple(ids[max(0, end - length) : end])
        if end > prompt_length:
            fresh.append(len(piece) < length or piece not in seen)
        seen.add(piece)
    return fresh
