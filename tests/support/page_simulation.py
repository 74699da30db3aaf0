# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The page rule in float64, one text at a time: what every token must see, whatever ran beside it.

The rule: a token sees its own page and some pages before it exactly, as far as its section goes, and earlier ones as
codes; of page 0 always the sinks exactly. Sections are some pages long.
Shares no code with the package: numpy, the method model's codes and attention (method_codes.py, method_attention.py),
and a float64 copy of the model whose attention is replaced.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from method_attention import Tokens, attention
from method_codes import LayerCodes
from transformers import AttentionInterface, AttentionMaskInterface


CANDIDATES = 64
"""Tokens besides the sinks that sinks are chosen from."""
NAME = "page_simulation"
MAX_ALTERNATIVES = 24
"""Codes that rounding may choose differently and that are tried one by one before a text counts as wrong."""


@dataclass
class PageRule:
    """How a model stores.

    Args:
        page_tokens: tokens of a page.
        exact_pages: pages before a token's own that it sees exactly.
        section_tokens: tokens of a section.
        sink_length: exact early tokens.
        sink_choice: "small_values" or "first".
        codes: the codebook of each quantized layer.
    """

    page_tokens: int
    exact_pages: int
    section_tokens: int
    sink_length: int
    sink_choice: str
    codes: dict[int, LayerCodes]
    doubtful: list[tuple] = field(default_factory=list)
    """(layer, side, head, token, place, vector) of codes that float32 may choose otherwise, of the last run."""
    forced: tuple | None = None
    """One of `doubtful` to be taken in the next run."""

    def sinks(self, values: np.ndarray) -> np.ndarray:
        """Return which tokens of page 0 are sinks, bool `[N]`, from its values `[N, D]`."""
        early = values[: self.sink_length + CANDIDATES]
        # In steps of an eighth of an octave, so that rounding does not choose between equal tokens.
        size = np.round(8 * np.log2((early**2).sum(1)))
        order = np.arange(len(early)) if self.sink_choice == "first" else np.argsort(size, kind="stable")
        chosen = np.zeros(len(values), bool)
        chosen[order[: self.sink_length]] = True
        return chosen

    def head(self, layer: int, head: int, query, keys, values, scale, softcap, sink_logits) -> np.ndarray:
        """Return the attention `[G, T, D]` of the queries `[G, T, D]` of one key/value head over its text."""
        tokens, size = len(keys), self.page_tokens
        full = tokens // size
        sink = np.zeros(tokens, bool)
        if full:
            sink[:size] = self.sinks(values[:size])
        coded_keys, coded_values = np.zeros_like(keys), np.zeros_like(values)
        places = np.flatnonzero(~sink[: full * size])
        for side, states, target in ((0, keys, coded_keys), (1, values, coded_values)):
            if len(places):
                target[places] = self._encode(layer, side, head, states[places], places)
        output = np.zeros((*query.shape[:2], values.shape[1]))
        index = np.arange(tokens)
        for start in range(0, tokens, size):
            rows = slice(start, min(start + size, tokens))
            window = max(start - self.exact_pages * size, start // self.section_tokens * self.section_tokens)
            coded = (index < window) & ~sink
            stored = Tokens(keys, values, coded_keys, coded_values, coded)
            visible = index <= index[rows][:, None]
            output[:, rows], _ = attention(
                query[:, rows], stored, self.codes[layer], head, visible, scale, softcap, sink_logits
            )
        return output

    def _encode(self, layer: int, side: int, head: int, states: np.ndarray, places: np.ndarray) -> np.ndarray:
        half = self.codes[layer][side]
        choice = half.encode(states, head)
        vectors, sub = choice.vectors, half.centroids.shape[3]
        for (row, place), sums in choice.doubtful.items():
            part = slice(place * sub, (place + 1) * sub)
            for other in sums:
                if np.abs(other - vectors[row, part]).max() > 0:
                    self.doubtful.append((layer, side, head, int(places[row]), place, other))
        if self.forced is not None and self.forced[:3] == (layer, side, head) and self.forced[3] in places:
            row = int(np.flatnonzero(places == self.forced[3])[0])
            vectors[row, self.forced[4] * sub : (self.forced[4] + 1) * sub] = self.forced[5]
        return vectors


_rule: list[PageRule] = []


def _attend(
    module, query, key, value, attention_mask, scaling=None, softcap=None, s_aux=None, sliding_window=None, **_
):
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    queries, keys, values = (states[0].double().numpy() for states in (query, key, value))
    logits = None if s_aux is None else s_aux.double().numpy()
    group, rule, outputs = len(queries) // len(keys), _rule[-1], []
    for head in range(len(keys)):
        own = slice(head * group, (head + 1) * group)
        args = queries[own], keys[head], values[head]
        rest = scaling, softcap or 0.0, None if logits is None else logits[own]
        if module.layer_idx in rule.codes:
            outputs.append(rule.head(module.layer_idx, head, *args, *rest))
            continue
        index = np.arange(len(keys[head]))
        window = sliding_window or len(index)
        visible = (index <= index[:, None]) & (index > index[:, None] - window)
        plain = Tokens(keys[head], values[head], keys[head], values[head], np.zeros(len(index), bool))
        outputs.append(attention(args[0], plain, None, head, visible, *rest)[0])
    return torch.from_numpy(np.concatenate(outputs)).transpose(0, 1)[None].to(query.dtype), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


class Simulation:
    """A model under a page rule.

    Args:
        model: the model; it is copied.
        rule: its page rule.
    """

    def __init__(self, model, rule: PageRule):
        self.rule = rule
        self.model = copy.deepcopy(model).double()
        self.model.config._attn_implementation = {"": NAME}
        self.single, self.double = copy.deepcopy(model), copy.deepcopy(model).double()
        for plain in (self.single, self.double):
            plain.config._attn_implementation = {"": "eager"}
        for each in (self.model, self.single, self.double):
            # The fast experts of torch do not take float64.
            each.config._experts_implementation = "eager"

    def scores(self, tokens: list[int], forced: tuple | None = None) -> np.ndarray:
        """Return the scores of the next token behind each token of a text, float64 `[T, vocabulary]`."""
        self.rule.doubtful, self.rule.forced = [], forced
        _rule.append(self.rule)
        try:
            with torch.no_grad():
                return self.model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
        finally:
            _rule.pop()

    def rounding(self, tokens: list[int]) -> float:
        """Return how far float32 moves the scores of this text: the largest difference of the plain model's."""
        with torch.no_grad():
            text = torch.tensor([tokens])
            single, double = (model(text, use_cache=False).logits[0] for model in (self.single, self.double))
        return float((single.double() - double).abs().max())

    def difference(self, prompt: list[int], generated: list[int]) -> str | None:
        """Return where a greedy answer is not the rule's, or None.

        A token may be another one than the rule's if its score is lower by at most 16 times the rounding of the text,
        or if the rule gives it with one code that rounding leaves open taken the other way.
        """
        text = prompt + generated[:-1]
        bound = 16 * self.rounding(text)
        wrong = self._first_wrong(self.scores(text), prompt, generated, bound)
        if wrong is None:
            return None
        for choice in self.rule.doubtful[:MAX_ALTERNATIVES]:
            if self._first_wrong(self.scores(text, choice), prompt, generated, bound) is None:
                return None
        return wrong

    @staticmethod
    def _first_wrong(scores: np.ndarray, prompt: list[int], generated: list[int], bound: float) -> str | None:
        for place, token in enumerate(generated):
            row = scores[len(prompt) - 1 + place]
            gap = row.max() - row[token]
            if gap > bound:
                return f"token {place} is {token}, not {int(row.argmax())}: score gap {gap:.2g} > {bound:.2g}"
        return None
