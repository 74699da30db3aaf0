# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is done with every family of models: each operation runs with the default cache, with a cache of codes that is
still exact, and with one that has coded tokens.

An operation takes a `Run` and returns the logits that it made. It knows nothing of which cache it runs with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from method_follower import Follower
from model_families import family_inputs, family_model
from tiny_codebooks import random_codebook
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicCache

from vecinfer_hf import Codebook, VecInferCache
from vecinfer_hf.integration.compat import cache_argument


DEFAULT, EXACT, CODED = "default", "exact", "coded"
LENGTH, NEW = 40, 4


@dataclass
class Run:
    """A model of a family with one kind of cache.

    Args:
        family: its name.
        model: the model.
        kind: "default", "exact" (a window that nothing leaves) or "coded" (a window of 8 tokens).
        codebook: its codebook; None for a random one.
        follower: what follows its caches, or None.
        caches: every cache that was made.
    """

    family: str
    model: PreTrainedModel
    kind: str
    codebook: Codebook | None = None
    follower: Follower | None = None
    caches: list[Cache] = field(default_factory=list)

    def cache(self, **options) -> Cache:
        """Return a new cache; `options` are those of a VecInferCache."""
        if self.kind == DEFAULT:
            return DynamicCache(config=self.model.config)
        self.caches.append(self._codes(options))
        return self.caches[-1]

    def _codes(self, options: dict) -> VecInferCache:
        codebook = self.codebook or random_codebook(self.model.config, kind="matrix", mean=True)
        window = 8 if self.kind == CODED else 4096
        options = {"residual_length": window, "ops_backend": "reference", **options}
        return VecInferCache(self.model.config, codebook, **options)

    def check_coded(self) -> None:
        """Fail unless every layer with full attention of some cache has coded tokens."""
        coded = [[max(layer.storage.lengths()[1]) for layer in cache.quantized_layers] for cache in self.caches]
        assert any(layers and min(layers) > 0 for layers in coded), coded

    def generate(self, inputs: dict[str, torch.Tensor], cache: Cache, new: int = NEW, **options) -> torch.Tensor:
        """Return the logits `[B, new, vocabulary]` of a greedy continuation."""
        return self.continued(inputs, cache, new, **options)[0]

    def continued(self, inputs, cache: Cache, new: int = NEW, **options) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits `[B, new, vocabulary]` of a greedy continuation, and the whole text `[B, T + new]`."""
        output = self.model.generate(
            **inputs,
            **cache_argument(cache),
            max_new_tokens=new,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
        return torch.stack(output.logits, 1), output.sequences

    def forward(self, ids: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Return the logits `[B, T, vocabulary]` of one forward pass."""
        with torch.no_grad():
            return self.model(ids, **cache_argument(cache)).logits

    def copy(self, cache: Cache) -> Cache:
        """Return a copy of a cache."""
        other = copy.deepcopy(cache)
        if self.follower is not None:
            self.follower.copied(cache, other)
        return other

    def text(self, rows: int = 1, length: int = LENGTH, seed: int = 0) -> dict[str, torch.Tensor]:
        """Return a prompt without an image."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(2, 90, (rows, length), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def plain(run: Run) -> torch.Tensor:
    """One prompt, then single tokens."""
    return run.generate(run.text(), run.cache(), 12)


def left_padded(run: Run) -> torch.Tensor:
    """Two rows of different lengths."""
    inputs = run.text(2)
    inputs["input_ids"][0, :9] = 0
    inputs["attention_mask"][0, :9] = 0
    return run.generate(inputs, run.cache())


def chunks(run: Run) -> torch.Tensor:
    """A prompt in chunks of 18 tokens."""
    return run.generate(run.text(), run.cache(), prefill_chunk_size=18)


def second_turn(run: Run) -> torch.Tensor:
    """A second prompt of 20 tokens behind the first answer."""
    cache = run.cache()
    first, text = run.continued(run.text(), cache)
    ids = torch.cat([text, run.text(1, 20, seed=1)["input_ids"]], 1)
    again = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return torch.cat([first, run.generate(again, cache)], 1)


def beams(run: Run) -> torch.Tensor:
    """Beam search over three beams."""
    cache = run.cache()
    return run.generate(run.text(), cache, num_beams=3)


def prompt_lookup(run: Run) -> torch.Tensor:
    """Guesses from the prompt, most of which are refused."""
    inputs = run.text()
    inputs["input_ids"][:, 20:] = inputs["input_ids"][:, :20]
    return run.generate(inputs, run.cache(), prompt_lookup_num_tokens=3)


def assistant(run: Run) -> torch.Tensor:
    """Guesses of a smaller model."""
    other = family_model("llama", seed=5)
    return run.generate(run.text(), run.cache(), assistant_model=other)


def crop(run: Run) -> torch.Tensor:
    """Seven tokens taken back, and others in their place."""
    cache, ids = run.cache(), run.text()["input_ids"]
    run.forward(ids, cache)
    cache.crop(-7)
    return run.forward(run.text(seed=2)["input_ids"][:, :5], cache)


def deepcopy(run: Run) -> torch.Tensor:
    """Two continuations of one prompt, each on a copy of its own."""
    cache, ids = run.cache(), run.text()["input_ids"]
    run.forward(ids, cache)
    other = run.copy(cache)
    tokens = run.text(seed=3)["input_ids"]
    return torch.cat([run.forward(tokens[:, :3], other), run.forward(tokens[:, 3:6], cache)], 1)


def reset(run: Run) -> torch.Tensor:
    """A cache used for a second text."""
    cache = run.cache()
    run.forward(run.text(seed=4)["input_ids"], cache)
    cache.reset()
    # transformers before 5.24 keeps zeros in a default cache.
    return run.generate(run.text(), run.cache() if run.kind == DEFAULT else cache)


def static(run: Run) -> torch.Tensor:
    """A cache allocated once."""
    return run.generate(run.text(), run.cache(static=True, max_cache_len=64))


def image(run: Run) -> torch.Tensor:
    """Two prompts with an image each."""
    return run.generate(family_inputs(run.family, 2, LENGTH), run.cache())


OPERATIONS: dict[str, Callable[[Run], torch.Tensor]] = {
    function.__name__: function
    for function in (
        plain,
        left_padded,
        chunks,
        second_turn,
        beams,
        prompt_lookup,
        assistant,
        crop,
        deepcopy,
        reset,
        static,
        image,
    )
}
"""Operation -> what it does. Two more, "saved" and "calibrated", do not run with the default cache."""
