# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Many questions on one text: the text is read once, and answers are those of the whole text."""

import pytest
import torch
from tiny_codebooks import random_codebook
from tiny_models import tiny_model

from vecinfer_hf import Context, SavedCacheError, UnsupportedCallError, VecInferCache, enable
from vecinfer_hf.integration.compat import cache_argument


TEXT = "The shop opens at nine. " * 20
QUESTIONS = [" When does it open?", " Who asks?", " When does it open?"]


@pytest.fixture
def case(smollm2_tokenizer):
    model = tiny_model("llama", vocab_size=len(smollm2_tokenizer))
    return enable(model, random_codebook(model.config), residual_length=32), smollm2_tokenizer


def test_questions_share_the_text_and_leave_it(case, tmp_path):
    model, tokenizer = case
    context = Context(model, tokenizer, TEXT)
    length = context.cache.get_seq_length()
    seen = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    answers = context.ask(QUESTIONS, max_new_tokens=8)
    assert max(seen) < 20, "the text is not read again"
    assert len(seen) == 3 * 8
    assert answers[0] == answers[2] == context.ask(QUESTIONS[0], max_new_tokens=8)
    assert context.cache.get_seq_length() == length
    # The same by hand.
    cache = VecInferCache(model, model._vecinfer.codebook)
    text = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    model(text, **cache_argument(cache), use_cache=True)
    asked = torch.cat([text, tokenizer(QUESTIONS[1], return_tensors="pt")["input_ids"]], 1)
    output = model.generate(asked, max_new_tokens=8, do_sample=False, **cache_argument(cache))
    assert answers[1] == tokenizer.decode(output[0, asked.shape[1] :], skip_special_tokens=True)
    context.save(tmp_path / "text")
    again = Context.load(tmp_path / "text", model, tokenizer)
    assert again.ask(QUESTIONS, max_new_tokens=8) == answers
    context.cache.save(tmp_path / "alone")
    with pytest.raises(SavedCacheError, match="without its text"):
        Context.load(tmp_path / "alone", model, tokenizer)


def test_nothing_to_read_or_to_answer_is_told(case):
    model, tokenizer = case
    with pytest.raises(UnsupportedCallError, match="no token"):
        Context(model, tokenizer, "")
    with pytest.raises(UnsupportedCallError, match="without a token"):
        Context(model, tokenizer, TEXT).ask("")
