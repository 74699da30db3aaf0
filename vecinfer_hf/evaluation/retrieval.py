# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Needle retrieval: numbers hidden in a long text, one of them asked for afterwards. Owns the samples and their score.

The form is RULER's (https://arxiv.org/abs/2404.06654, multi-key needles), asked by a sentence to complete, which base
models and small chat models answer more often than a question; words, numbers and places are drawn here.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ..cache_name import cache_argument
from ..calibration.attention import attention_function, plain_attention
from ..calibration.refine import model_logits
from .intervals import paired_difference


_NOUNS = (
    "anchor", "basket", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orchard", "pencil", "quarry", "river", "saddle", "temple", "umbrella", "valley",
    "window", "yogurt",
)  # fmt: skip
_NEEDLE = "\nThe special magic number for {word} is: {number}.\n"
_BATCH_TOKENS = 65536
_QUESTION = "\nThe special magic number for {word} is:"


@dataclass(frozen=True)
class NeedleSample:
    """One text with its question and answer.

    Args:
        ids: int64 `[T]`: context, question, answer.
        context_length: tokens of the context, which is there before anything is asked.
        answer_length: last tokens, the number.
    """

    ids: torch.Tensor
    context_length: int
    answer_length: int


def needle_samples(
    tokenizer: PreTrainedTokenizerBase, haystack: str, length: int, keys: int, count: int, seed: int = 0
) -> list[NeedleSample]:
    """Return samples of exactly `length` tokens, each with `keys` numbers for different words hidden in its context.

    The same seed gives the same samples. Every sample cuts another piece of the haystack.

    Args:
        tokenizer: the model's tokenizer.
        haystack: text to hide them in, of more than `length` tokens.
        length: tokens of context, question and answer together.
        keys: numbers hidden, one of which is asked for.
        count: samples.
        seed: seed of words, numbers, places and pieces.

    Raises:
        ValueError: if the haystack or the length is too short, or there are more keys than words.
    """
    if not 1 <= keys <= len(_NOUNS):
        raise ValueError(f"keys is {keys}; it must be 1 to {len(_NOUNS)}.")

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    draw = random.Random(seed)
    hay = encode(haystack)
    first = tokenizer("")["input_ids"][:1]
    bos = first if first and first[0] == tokenizer.bos_token_id else []
    samples = []
    for _ in range(count):
        words = draw.sample(_NOUNS, keys)
        numbers = [str(draw.randrange(10**6, 10**7)) for _ in words]
        needles = [
            encode(_NEEDLE.format(word=word, number=number)) for word, number in zip(words, numbers, strict=True)
        ]
        question = encode(_QUESTION.format(word=words[0]))
        answer = encode(_QUESTION.format(word=words[0]) + " " + numbers[0])[len(question) :]
        room = length - len(bos) - sum(map(len, needles)) - len(question) - len(answer)
        if room < keys or room > len(hay):
            raise ValueError(
                f"Samples of {length} tokens leave {room} for a haystack that has {len(hay)} tokens; "
                "choose another length or a longer text."
            )
        start = draw.randrange(len(hay) - room + 1)
        piece = hay[start : start + room]
        draw.shuffle(needles)
        places = sorted(draw.sample(range(room), keys))
        context, last = list(bos), 0
        for place, needle in zip(places, needles, strict=True):
            context += piece[last:place] + needle
            last = place
        context += piece[last:]
        samples.append(NeedleSample(torch.tensor(context + question + answer), len(context), len(answer)))
    return samples


def retrieval_report(
    hits: Mapping[str, Sequence[bool]], bits: Mapping[str, float], reference: str
) -> list[dict[str, Any]]:
    """Return one row per method: how many samples it answers, and how it differs from a reference on the same ones.

    Args:
        hits: method -> for each sample whether it was answered.
        bits: method -> true bits per element.
        reference: the method that the others are held against.

    Returns:
        Dicts of name, bits, hits, share (0 to 1), difference (share less the reference's), low and high (its 95 %
        interval, see `paired_difference`), lost (samples only the reference answers), gained, and missed (indices).
    """
    rows = []
    for name, found in hits.items():
        gained = sum(own and not other for own, other in zip(found, hits[reference], strict=True))
        lost = sum(other and not own for own, other in zip(found, hits[reference], strict=True))
        difference, low, high = paired_difference(gained, lost, len(found))
        rows.append(
            {
                "name": name,
                "bits": bits[name],
                "hits": sum(found),
                "share": sum(found) / len(found),
                "difference": difference,
                "low": low,
                "high": high,
                "lost": lost,
                "gained": gained,
                "missed": [index for index, hit in enumerate(found) if not hit],
            }
        )
    return rows


@torch.no_grad()
def needle_hits(
    model: PreTrainedModel,
    samples: Sequence[NeedleSample],
    methods: Mapping[str, Mapping[int, torch.nn.Module]],
    *,
    sink_length: int = 4,
    residual_length: int = 128,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[bool]]:
    """Return for each method and sample whether the model finds the sample's number.

    The context is read in one call, exactly; question and answer then read codes for all of it but the sinks and the
    exact window, as a question does that is asked about a stored text. What a method changes reaches the prediction
    only through the question's tokens, so the context runs once for all methods.

    Args:
        model: the model, unchanged afterwards.
        samples: what `needle_samples` returned.
        methods: name -> (layer index -> `LayerSimulator` or `PeerSimulator`); empty layers for the stock cache.
        sink_length: exact first tokens.
        residual_length: exact recent tokens, the query's own included.
        batch_tokens: tokens of a batch of samples, at most; default 65536 on an accelerator, one sample on a CPU.
        progress: called with the number of samples after each batch.
    """
    if batch_tokens is None:
        batch_tokens = 1 if model.device.type == "cpu" else _BATCH_TOKENS
    alike: dict[tuple[int, int, int], list[int]] = {}
    for index, sample in enumerate(samples):
        alike.setdefault((len(sample.ids), sample.context_length, sample.answer_length), []).append(index)
    hits: dict[str, list[bool]] = {name: [False] * len(samples) for name in methods}
    for (length, context, answer), indices in alike.items():
        size = max(1, batch_tokens // length)
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            ids = torch.stack([samples[index].ids for index in part]).to(model.device)
            cache = DynamicCache(config=model.config)
            with attention_function(model, plain_attention):
                model.base_model(input_ids=ids[:, :context], **cache_argument(cache), use_cache=True)
            for name, layers in methods.items():
                attention = question_attention(layers, sink_length, residual_length)
                with attention_function(model, attention):
                    # What the last token predicts is not asked for.
                    output = model.base_model(
                        input_ids=ids[:, context:-1], **cache_argument(_continued(cache)), use_cache=True
                    )
                logits = model_logits(model, output.last_hidden_state[:, -answer:])
                for index, hit in zip(part, answered(logits, ids[:, -answer:]).tolist(), strict=True):
                    hits[name][index] = hit
            if progress is not None:
                progress(len(part))
    return hits


def answered(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Whether greedy generation would have given each whole answer, bool `[B]`.

    Args:
        logits: `[B, A, vocabulary]`, the predictions of the answers' tokens, each made with the answer's earlier
            tokens given, which is what greedy generation sees as long as it is right.
        answers: int64 `[B, A]`.
    """
    return (logits.argmax(-1) == answers).all(-1)


def question_attention(
    layers: Mapping[int, torch.nn.Module], sink_length: int, residual_length: int
) -> Callable[..., torch.Tensor]:
    """Return an attention function for the last few tokens of a text whose exact keys and values are in a stock cache.

    Args:
        layers: layer index -> what quantizes it; all other layers are exact.
        sink_length: exact first tokens.
        residual_length: exact recent tokens, the query's own included.
    """
    masks: dict[tuple, torch.Tensor] = {}

    def split(queries: int, tokens: int, device: torch.device) -> torch.Tensor:
        """Which of the exact and of the quantized tokens each query reads, bool `[1, 1, queries, 2 tokens]`."""
        if (queries, tokens) not in masks:
            key = torch.arange(tokens, device=device)
            query = torch.arange(tokens - queries, tokens, device=device).unsqueeze(1)
            near = (key > query - residual_length) | (key < sink_length)
            causal = key <= query
            masks.clear()
            masks[queries, tokens] = torch.cat([causal & near, causal & ~near], dim=1)[None, None]
        return masks[queries, tokens]

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        layer = layers.get(module.layer_idx)
        if layer is None:
            return plain_attention(module, query, key, value, attention_mask, scaling, **kwargs)
        keys, values = torch.cat([key, layer.key(key)], dim=2), torch.cat([value, layer.value(value)], dim=2)
        mask = split(query.shape[2], key.shape[2], key.device)
        return plain_attention(module, query, keys, values, mask, scaling, **kwargs)

    return attention


def _continued(cache: DynamicCache) -> DynamicCache:
    """Return a cache that goes on from `cache` and leaves it as it is: layers grow by making new tensors."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied
