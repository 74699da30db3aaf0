# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Context: many questions on one text, which is read once and kept as codes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..cache.cache import VecInferCache
from ..codebook.codebook import Codebook
from ..errors import SavedCacheError, UnsupportedCallError
from .attention_switch import attention_of_call
from .compat import cache_argument
from .request import enabled_state


class Context:
    """A text that a model has read; each question goes on from a copy of its cache.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        text: the text.
        codebook: see `VecInferCache`; default that of `enable`, else "auto".

    Raises:
        UnsupportedCallError: for a text without a token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        codebook: Codebook | str | None = None,
    ):
        state = enabled_state(model)
        if codebook is None and state is not None:
            codebook = state.codebook
        input_ids = tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
        if not input_ids.numel():
            raise UnsupportedCallError(f"The text {text!r} has no token for this tokenizer; give another one.")
        self._set(model, tokenizer, VecInferCache(model, codebook), input_ids)
        with torch.inference_mode(), attention_of_call(model, needs_vecinfer=True):
            model.base_model(input_ids, **cache_argument(self.cache), use_cache=True)

    def _set(self, model, tokenizer, cache: VecInferCache, input_ids: torch.Tensor) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.cache = cache
        """What the text is kept as; questions leave it as it is."""
        self.input_ids = input_ids
        """The text, int64 `[1, T]`."""

    def ask(self, questions: str | Sequence[str], max_new_tokens: int = 100, **options: Any) -> str | list[str]:
        """Return the continuations of the text followed by each question, greedy unless `options` say otherwise.

        Args:
            questions: one question, or several; a chat format is up to the caller.
            max_new_tokens: tokens of an answer, at most.
            options: passed on to `generate`.

        Returns:
            One answer, or one for each question.
        """
        if isinstance(questions, str):
            return self._answer(questions, max_new_tokens, options)
        return [self._answer(question, max_new_tokens, options) for question in questions]

    def _answer(self, question: str, max_new_tokens: int, options: dict[str, Any]) -> str:
        asked = self.tokenizer(question, return_tensors="pt", add_special_tokens=False)["input_ids"]
        if not asked.numel():
            raise UnsupportedCallError("A question without a token cannot be answered; give one.")
        ids = torch.cat([self.input_ids, asked.to(self.input_ids.device)], dim=1)
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            **cache_argument(copy.deepcopy(self.cache)),
            **{"do_sample": False, **options},
        )
        return self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)

    def save(self, path: str | Path) -> None:
        """Write the text's cache and tokens to a file; see `VecInferCache.save`."""
        self.cache.save(path, self.input_ids)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        codebook: Codebook | str | None = None,
    ) -> Context:
        """Return what `save` wrote; see `VecInferCache.load`."""
        from ..cache.saved import load_with_text

        cache, input_ids = load_with_text(VecInferCache, path, model, codebook)
        if input_ids is None:
            raise SavedCacheError(f"{path} holds a cache without its text; load it with VecInferCache.load.")
        context = cls.__new__(cls)
        context._set(model, tokenizer, cache, input_ids)
        return context
