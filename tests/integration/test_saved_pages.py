# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pages in a file: another process goes on from them with the same tokens, or says why it cannot."""

import pytest
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import ContinuousBatchingConfig, GenerationConfig

from vecinfer_hf import SavedCacheError, UnsupportedCallError, enable
from vecinfer_hf.integration.continuous_batching import why_unsupported


pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason=f"{why_unsupported()}")
SMALL = {"page_size": 32, "num_blocks": 60, "max_batch_tokens": 64, "max_requests_per_batch": 8}
TEXT = tiny_inputs(1, 150)[0].tolist()
"""Two sections of 64 tokens and more."""


@pytest.fixture(autouse=True)
def _short_sections(monkeypatch):
    monkeypatch.setattr("vecinfer_hf.integration.paged_manager.SHARE_TOKENS", 64)


def manager(seed=0, dtype=None, **changes):
    """A manager as a new process would have it."""
    model = tiny_model("llama") if dtype is None else tiny_model("llama", dtype=dtype)
    enable(model, random_codebook(model.config, seed=seed), residual_length=32, ops_backend="reference")
    config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=12)
    return model.init_continuous_batching(config, ContinuousBatchingConfig(**{**SMALL, **changes}))


def answers(running, *endings):
    """The tokens of requests that begin with the text, and how many tokens of them were computed."""
    cache, shared = running.cache, []
    match = cache.search_prefix_match if cache else None
    if match:
        cache.search_prefix_match = lambda *args: shared.append(match(*args)) or shared[-1]
    running.start()
    names = [running.add_request([*TEXT, *ending]) for ending in endings]
    found = {}
    while len(found) < len(names):
        result = running.get_result(timeout=30)
        assert result.error is None
        found[result.request_id] = result.generated_tokens
    return [found[name] for name in names], shared


def test_saved_pages_serve_requests_of_another_process(tmp_path):
    path = tmp_path / "text.pages"
    first = manager()
    expected, _ = answers(first, [5], [6, 7])
    assert first.save_prefix(TEXT, path) == 128
    first.stop(block=True)
    second = manager()
    assert second.load_prefix(path) == 128
    assert second.load_prefix(path) == 128, "known pages are not loaded twice"
    pages = second.state()["pages"]
    assert (pages["kept"], pages["used"]) == (4 + second.layout.header_blocks, 0)
    found, shared = answers(second, [5], [6, 7])
    assert found == expected
    assert shared == [128, 128]
    # Also while requests run.
    assert second.save_prefix(TEXT, tmp_path / "again") == 128
    assert second.load_prefix(tmp_path / "again") == 128
    second.stop(block=True)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_pages_of_something_else_are_refused(tmp_path):
    import torch

    path = tmp_path / "text.pages"
    first = manager()
    with pytest.raises(UnsupportedCallError, match="no whole section of this text of 150 tokens"):
        first.save_prefix(TEXT, path)
    answers(first, [5])
    first.save_prefix(TEXT, path)
    first.stop(block=True)
    with pytest.raises(SavedCacheError, match="another codebook"):
        manager(seed=1).load_prefix(path)
    with pytest.raises(SavedCacheError, match=r"has rule \[32, 1, 2\], but this cache has \[64, 1, 2\]"):
        manager(page_size=64).load_prefix(path)
    with pytest.raises(SavedCacheError, match="dtype float32"):
        manager(dtype=torch.bfloat16).load_prefix(path)
    with pytest.raises(UnsupportedCallError, match="sharing|shared"):
        manager(allow_block_sharing=False).load_prefix(path)
    with pytest.raises(UnsupportedCallError, match="needs 6 pages, but the cache has 3 free"):
        manager(num_blocks=3).load_prefix(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    unharmed = manager()
    with pytest.raises(SavedCacheError, match="no complete saved cache"):
        unharmed.load_prefix(path)
    assert unharmed.state()["pages"]["free"] == unharmed.state()["pages"]["total"]
