# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Needle retrieval: which of the numbers hidden in long texts a model finds, with each cache. Owns the measurement.

needles.py makes the texts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from vecinfer_hf.calibration.attention import attention_function, plain_attention
from vecinfer_hf.calibration.fake_quantization import with_full_precision_sinks
from vecinfer_hf.calibration.loss import model_logits
from vecinfer_hf.config import SMALL_VALUES
from vecinfer_hf.integration.compat import cache_argument

from .intervals import paired_difference
from .needles import NeedleSample


_BATCH_TOKENS = 65536


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
    sink_choice: str = SMALL_VALUES,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[bool]]:
    """Return for each method and sample whether the model finds the sample's number.

    The context is read in one call, exactly; question and answer then read codes for all of it but the sinks and the
    exact window, as a question does that is asked about a stored text. What a method changes reaches the prediction
    only through the question's tokens, so a context runs once for all methods and all questions about it, and is
    quantized once by each method. (Tokens of a peer's last group of tokens are exact where the context does not fill
    it.)

    Args:
        model: the model, unchanged afterwards.
        samples: what `needle_samples` returned.
        methods: name -> (layer index -> `LayerFakeQuantizer` or `PeerSimulator`); empty layers for the stock cache.
        sink_length: exact early tokens.
        residual_length: exact recent tokens, the query's own included.
        sink_choice: see `VecInferConfig.sink_choice`.
        batch_tokens: tokens of a batch of contexts, at most; default 65536 on an accelerator, one context on a CPU.
        progress: called with the number of samples after each batch.
    """
    if batch_tokens is None:
        batch_tokens = 1 if model.device.type == "cpu" else _BATCH_TOKENS
    hits: dict[str, list[bool]] = {name: [False] * len(samples) for name in methods}
    for contexts in _batches(samples, batch_tokens):
        first = [samples[indices[0]] for indices in contexts]
        ids = torch.stack([sample.ids[: sample.context_length] for sample in first]).to(model.device)
        cache = DynamicCache(config=model.config)
        with attention_function(model, plain_attention):
            model.base_model(input_ids=ids, **cache_argument(cache), use_cache=True)
        for name, layers in methods.items():
            coded = {}
            for index, layer in layers.items():
                exact = cache.layers[index].keys, cache.layers[index].values
                states = layer.key(exact[0]), layer.value(exact[1])
                coded[index] = with_full_precision_sinks(exact, states, sink_length, sink_choice)
            for rows, part in _questions(samples, contexts):
                texts = torch.stack([samples[index].ids[ids.shape[1] :] for index in part]).to(model.device)
                chosen = torch.tensor(rows, device=model.device)
                states = {index: tuple(side.index_select(0, chosen) for side in pair) for index, pair in coded.items()}
                attention = question_attention(layers, states, sink_length, residual_length)
                with attention_function(model, attention):
                    # What the last token predicts is not asked for.
                    output = model.base_model(
                        input_ids=texts[:, :-1], **cache_argument(_continued(cache, chosen)), use_cache=True
                    )
                answer = samples[part[0]].answer_length
                logits = model_logits(model, output.last_hidden_state[:, -answer:])
                for index, hit in zip(part, answered(logits, texts[:, -answer:]).tolist(), strict=True):
                    hits[name][index] = hit
        if progress is not None:
            progress(sum(map(len, contexts)))
    return hits


def _batches(samples: Sequence[NeedleSample], batch_tokens: int) -> list[list[list[int]]]:
    """Batches of contexts of one length; of each context the samples that ask about it."""
    about: dict[tuple[int, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        about.setdefault(tuple(sample.ids[: sample.context_length].tolist()), []).append(index)
    alike: dict[int, list[list[int]]] = {}
    for context, indices in about.items():
        alike.setdefault(len(context), []).append(indices)
    batches = []
    for length, contexts in alike.items():
        size = max(1, batch_tokens // length)
        batches += [contexts[start : start + size] for start in range(0, len(contexts), size)]
    return batches


def _questions(samples: Sequence[NeedleSample], contexts: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """Samples that run at once: for each group the rows of the batch of contexts, and the samples."""
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row, indices in enumerate(contexts):
        for index in indices:
            sample = samples[index]
            groups.setdefault((len(sample.ids), sample.answer_length), []).append((row, index))
    parts = []
    for pairs in groups.values():
        # Not more rows than contexts: each holds a copy of its keys and values.
        for start in range(0, len(pairs), len(contexts)):
            rows, part = zip(*pairs[start : start + len(contexts)], strict=True)
            parts.append((list(rows), list(part)))
    return parts


def answered(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Whether greedy generation would have given each whole answer, bool `[B]`.

    Args:
        logits: `[B, A, vocabulary]`, the predictions of the answers' tokens, each made with the answer's earlier
            tokens given, which is what greedy generation sees as long as it is right.
        answers: int64 `[B, A]`.
    """
    return (logits.argmax(-1) == answers).all(-1)


def question_attention(
    layers: Mapping[int, torch.nn.Module],
    coded: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
    sink_length: int,
    residual_length: int,
) -> Callable[..., torch.Tensor]:
    """Return an attention function for the last few tokens of a text whose exact keys and values are in a stock cache.

    Args:
        layers: layer index -> what quantizes it; all other layers are exact.
        coded: layer index -> keys and values of the context `[B, Hkv, C, D]` after quantization, sinks exact.
        sink_length: first tokens that peers leave out of their groups.
        residual_length: exact recent tokens, the query's own included.
    """
    masks: dict[tuple, torch.Tensor] = {}

    def split(queries: int, tokens: int, stored: int, device: torch.device) -> torch.Tensor:
        """Which of the exact and of the quantized tokens each query reads, bool `[1, 1, queries, tokens + stored]`."""
        if (queries, tokens) not in masks:
            key = torch.arange(tokens, device=device)
            query = torch.arange(tokens - queries, tokens, device=device).unsqueeze(1)
            near = key > query - residual_length
            causal = key <= query
            masks[queries, tokens] = torch.cat([causal & near, (causal & ~near)[:, :stored]], dim=1)[None, None]
        return masks[queries, tokens]

    def quantized_end(quantize: Callable, states: torch.Tensor, context: int) -> torch.Tensor:
        """The tokens after the context; the sinks go along because peers leave the first tokens as they are."""
        part = torch.cat([states[:, :, :sink_length], states[:, :, context:]], dim=2)
        return quantize(part)[:, :, sink_length:]

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        layer = layers.get(module.layer_idx)
        if layer is None:
            return plain_attention(module, query, key, value, attention_mask, scaling, **kwargs)
        keys, values = coded[module.layer_idx]
        if query.shape[2] > residual_length:
            # So long a question leaves the exact window itself.
            keys = torch.cat([keys, quantized_end(layer.key, key, keys.shape[2])], dim=2)
            values = torch.cat([values, quantized_end(layer.value, value, values.shape[2])], dim=2)
        mask = split(query.shape[2], key.shape[2], keys.shape[2], key.device)
        keys, values = torch.cat([key, keys], dim=2), torch.cat([value, values], dim=2)
        return plain_attention(module, query, keys, values, mask, scaling, **kwargs)

    return attention


def _continued(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """Return a cache that goes on from rows of `cache` and leaves it as it is: layers grow by making new tensors."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    copied.batch_select_indices(rows)
    return copied
