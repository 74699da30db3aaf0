# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Needle-style text: made-up facts scattered over ordinary text, and questions about all of them at its end.

Owns the making of such windows. Ordinary text rarely asks for an exact number from thousands of tokens ago, so a
codebook calibrated on it alone spends no bits on finding one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from ..errors import ConfigError


RETRIEVAL_FRACTION = 0.5
"""Default fraction of windows with facts, where a recipe reads gradients."""
_SYLLABLES = (
    "ba", "cor", "del", "fen", "gar", "hol", "im", "jo", "kel", "lu", "mar", "nim", "or", "pas", "qui", "ros", "sel",
    "tam", "ul", "ver", "wil", "yan", "zor",
)  # fmt: skip
_THINGS = (
    "amber", "bridge", "copper", "dragon", "ember", "falcon", "granite", "harbor", "ivory", "jasmine", "lantern",
    "marble", "nectar", "onyx", "pepper", "quartz", "raven", "silver", "thistle", "velvet", "willow", "zephyr",
)  # fmt: skip
_FACTS = (
    ("{key} has the telephone number {value}.", "The telephone number of {key}? It is {value}."),
    ("The access code of {key} is {value}.", "The access code of {key} is {value}."),
    ("Please remember: {key} stands for {value}.", "What does {key} stand for? For {value}."),
    ("Order {key} was paid with {value}.", "Order {key} was paid with {value}."),
    ('settings["{key}"] = "{value}"', 'assert settings["{key}"] == "{value}"'),
    ("- {key}: {value}", "- {key}: {value}"),
    ("| {key} | {value} |", "| {key} | {value} |"),
    ('{{"name": "{key}", "id": "{value}"}}', '{{"name": "{key}", "id": "{value}"}}'),
    ("{key} was born in the year of {value}.", "In which year was {key} born? In the year of {value}."),
    ("In room {value} lives {key}.", "{key} lives in room {value}."),
    ("The parcel for {key} weighs {value} grams.", "How many grams does the parcel for {key} weigh? {value}"),
    ("Question: who is {key}? Answer: {value}.", "Question: who is {key}? Answer: {value}."),
)
"""Statement and question of a fact; the answer comes last or nearly so."""
_TOKENS_PER_FACT = 128
"""Tokens of a window per fact; fact and question together take about a quarter of them."""
MIN_LENGTH = 4 * _TOKENS_PER_FACT
"""Shorter windows hold too few facts, and little text between them."""


def retrieval_windows(
    tokenizer: Any, filler: torch.Tensor, length: int, count: int, seed: int = 0, prefix: int = 0
) -> torch.Tensor:
    """Return windows of ordinary text with facts scattered over it and a question about each at the end.

    Names and values are drawn at random, so that only the fact itself tells the answer. A window uses one to three
    forms of facts, so that a question matches several facts in form and one in name.

    Args:
        tokenizer: the model's tokenizer.
        filler: int64 `[windows, T]`, text between the facts; where it is shorter than needed it is repeated.
        length: tokens per window, at least `MIN_LENGTH`.
        count: windows.
        seed: seed of all draws.
        prefix: first tokens of every filler window that every new window begins with, and that stand nowhere else.

    Returns:
        int64 `[count, length]`.

    Raises:
        ConfigError: if the windows are shorter.
    """
    if length < MIN_LENGTH:
        raise ConfigError(f"Windows with facts have {length} tokens; they need {MIN_LENGTH} or more.")
    draw = random.Random(seed)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    return torch.stack([_window(draw, encode, filler, length, prefix) for _ in range(count)])


def _window(
    draw: random.Random, encode: Callable[[str], list[int]], filler: torch.Tensor, length: int, prefix: int
) -> torch.Tensor:
    """Return one window, int64 `[length]`; arguments as for `retrieval_windows`, `encode` from text to ids."""
    forms = draw.sample(_FACTS, draw.randint(1, 3))
    told, asked, names, spent = [], [], set(), 0
    while len(told) < length // _TOKENS_PER_FACT:
        fact, question = draw.choice(forms)
        key, value = _name(draw), _value(draw)
        if key in names:
            continue
        pair = [encode("\n" + form.format(key=key, value=value) + "\n") for form in (fact, question)]
        spent += sum(map(len, pair))
        if spent > length // 2:  # a tokenizer of many small tokens
            break
        names.add(key)
        told.append(pair[0])
        asked.append(pair[1])
    draw.shuffle(asked)
    rows = [filler[draw.randrange(len(filler))] for _ in range(-(-length // filler.shape[1]) + 1)]
    text = torch.cat([rows[0], *(row[prefix:] for row in rows[1:])]).tolist()
    room = length - sum(map(len, told)) - sum(map(len, asked))
    places = sorted(draw.randrange(prefix, room) for _ in told)
    ids, last = [], 0
    for place, fact in zip(places, told, strict=True):
        ids += text[last:place] + fact
        last = place
    ids += text[last:room]
    return torch.tensor(ids + [token for question in asked for token in question])


def _name(draw: random.Random) -> str:
    """Return a name that no text has: a made-up word, two things, or a thing with a number."""
    kind = draw.randrange(4)
    if kind == 0:
        return draw.choice(_THINGS) + "-" + draw.choice(_THINGS)
    if kind == 1:
        return f"{draw.choice(_THINGS)}_{draw.randrange(100, 1000)}"
    word = "".join(draw.choice(_SYLLABLES) for _ in range(draw.randint(2, 3))).capitalize()
    return word if kind == 2 else f"{word} {draw.choice(_THINGS).capitalize()}"


def _value(draw: random.Random) -> str:
    """Return a value: mostly a number, else two words, a hexadecimal number or a date."""
    kind = draw.randrange(6)
    if kind == 0:
        return f"{draw.choice(_THINGS)} {draw.choice(_THINGS)}"
    if kind == 1:
        return f"{draw.getrandbits(32):08x}"
    if kind == 2:
        return f"{draw.randrange(1000, 3000)}-{draw.randrange(1, 13):02d}-{draw.randrange(1, 29):02d}"
    return str(draw.randrange(10 ** draw.randint(2, 7), 10**8))[: draw.randint(3, 8)]
