# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Text that a model writes itself, to calibrate on where nobody gives any: sampled in batches, seeded.

Owns how a row begins and how its tokens are drawn. auto_text.py mixes the rows with the package's excerpts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from ..distributed.devices import computing_device
from ..model_info import text_config
from .special_tokens import bos_prefix, separator_ids


TEMPERATURE = 1.0
LEAST_PROBABILITY = 0.02
"""Tokens less probable than this share of the most probable one are not drawn: errors of one token lead the next."""
REQUESTS = (
    "Tell me about {}.",
    "Write an encyclopedia article about {}.",
    "Write a long story about {}.",
    "Explain {} step by step, with an example.",
    "Write a Python program about {} and explain it.",
    "Write a news report about {} with names, dates and numbers.",
)
SUBJECTS = (
    "a river", "the French Revolution", "prime numbers", "a lighthouse keeper", "photosynthesis", "chess",
    "the history of bread", "sorting a list", "a football club", "the planet Mars", "a city in Asia", "jazz",
    "electric motors", "a family dinner", "the Roman army", "vaccines", "a bank account", "birds of prey",
)  # fmt: skip
"""What the rows in a chat's form are asked for."""


def starts(model: PreTrainedModel, tokenizer: Any, rows: int, seed: int) -> list[list[int]]:
    """Return how each row begins: a text's beginning with a random token, and every second one as a chat.

    Args:
        model: the model.
        tokenizer: its tokenizer, or None: rows then begin with one random token.
        rows: how many.
        seed: seed of the choices.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = text_config(model.config).vocab_size
    special = set() if tokenizer is None else {*separator_ids(tokenizer, vocabulary)}
    special |= set(getattr(tokenizer, "all_special_ids", ()))

    def draw(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    def ordinary() -> int:
        while (token := draw(vocabulary)) in special and len(special) < vocabulary:
            pass
        return token

    beginnings = [[]] if tokenizer is None else [[token] for token in sorted(special & _begins(tokenizer))] or [[]]
    begins = []
    for row in range(rows):
        chat = row % 2 == 1 and tokenizer is not None and getattr(tokenizer, "chat_template", None)
        if chat:
            request = REQUESTS[draw(len(REQUESTS))].format(SUBJECTS[draw(len(SUBJECTS))])
            ids = chat_ids(tokenizer, request)
            if ids:
                begins.append(ids)
                continue
        first = bos_prefix(tokenizer) if tokenizer is not None else []
        begins.append([*(first or beginnings[row // 2 % len(beginnings)]), ordinary()])
    return begins


def _begins(tokenizer: Any) -> set[int]:
    """Return the special tokens a text may begin with."""
    names = ("bos_token_id", "eos_token_id")
    return {token for name in names if isinstance(token := getattr(tokenizer, name, None), int)}


def chat_ids(tokenizer: Any, request: str) -> list[int]:
    """Return a chat's beginning up to the answer, or nothing where the template refuses it."""
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": request}], tokenize=False, add_generation_prompt=True
        )
    except Exception:  # a template is a program of the model's author
        return []
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def write_text(
    model: PreTrainedModel,
    tokenizer: Any,
    rows: int,
    length: int,
    *,
    seed: int = 0,
    temperature: float = TEMPERATURE,
    least: float = LEAST_PROBABILITY,
    go_on: Callable[[int], bool] | None = None,
) -> torch.Tensor:
    """Return text sampled from the model, int64 `[rows, length]` on the CPU; the same seed gives the same text.

    A row whose text ends goes on behind the end token, as documents packed for training do.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer, or None.
        rows: texts, sampled side by side.
        length: tokens of each, the beginning included.
        seed: seed of beginnings and draws.
        temperature: of the draws.
        least: share of the most probable token's probability that a token needs to be drawn.
        go_on: called with the tokens of a row so far after each step; the rows end where it returns False.
    """
    from ..integration.compat import cache_argument

    begins = [ids[:length] for ids in starts(model, tokenizer, rows, seed)]
    # Rows differ in where their beginning ends: all are fed from the first token, and drawn tokens fill what is open.
    shared = min(map(len, begins))
    text = torch.zeros(rows, length, dtype=torch.long, device=computing_device(model))
    given = torch.zeros(rows, length, dtype=torch.bool)
    for row, ids in enumerate(begins):
        text[row, : len(ids)], given[row, : len(ids)] = torch.tensor(ids), True
    generator = torch.Generator().manual_seed(seed)
    cache, done, fed = DynamicCache(config=model.config), shared, 0
    given = given.to(computing_device(model))
    # Only the last logits are wanted; a few models form all of them.
    options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    while done < length:
        logits = model(text[:, fed:done], **cache_argument(cache), use_cache=True, **options).logits[:, -1]
        uniform = torch.rand(rows, generator=generator)
        drawn = _draw(logits.float(), uniform, temperature, least)
        text[:, done] = torch.where(given[:, done], text[:, done], drawn.to(text.device))
        fed, done = done, done + 1
        if go_on is not None and not go_on(done):
            break
    return text[:, :done].cpu()


def _draw(logits: torch.Tensor, uniform: torch.Tensor, temperature: float, least: float) -> torch.Tensor:
    """Return a token for each row, int64 `[rows]`, from logits float32 `[rows, vocabulary]` and uniforms `[rows]`."""
    probability = (logits / temperature).softmax(-1)
    kept = probability * (probability >= least * probability.amax(-1, keepdim=True))
    edges = kept.cumsum(-1)
    place = torch.searchsorted(edges, (uniform.to(edges) * edges[:, -1]).unsqueeze(-1), right=True)
    return place.clamp_max(logits.shape[-1] - 1).squeeze(-1)
