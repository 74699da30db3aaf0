# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A server that is killed and started again goes on from saved pages."""

import pytest
from tiny_codebooks import random_codebook
from tiny_models import tiny_inputs, tiny_model
from transformers import ContinuousBatchingConfig, GenerationConfig

from vecinfer_hf import SavedCacheError, enable
from vecinfer_hf.integration.continuous_batching import why_unsupported


pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason=f"{why_unsupported()}")
TEXT = tiny_inputs(1, 1100)[0].tolist()
CONFIG = {"page_size": 64, "num_blocks": 40, "max_batch_tokens": 1200, "max_requests_per_batch": 2}


def manager(model):
    config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=3)
    return model.init_continuous_batching(config, ContinuousBatchingConfig(**CONFIG))


@pytest.fixture
def prefixes():
    from vecinfer_hf.integration.paged_manager import PREFIXES

    yield PREFIXES
    PREFIXES.clear()


def test_a_new_cache_begins_with_the_files_of_the_line(tmp_path, prefixes):
    model = tiny_model("llama")
    enable(model, random_codebook(model.config), ops_backend="reference")
    first = manager(model)
    first.start()
    first.add_request(TEXT)
    expected = first.get_result(timeout=60).generated_tokens
    path = tmp_path / "text.pages"
    assert first.save_prefix(TEXT, path) == 1024
    first.stop(block=True)
    prefixes.append(path)
    again = manager(model)
    again.warmup()
    assert again.state()["pages"]["kept"] == 16 + again.layout.header_blocks
    again.start()
    again.add_request(TEXT)
    assert again.get_result(timeout=60).generated_tokens == expected
    again.stop(block=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SavedCacheError, match="no complete saved cache"):
        manager(model).warmup()


def test_a_file_that_is_not_there_is_told_before_anything_is_loaded(vecinfer, prefixes):
    code, _, err = vecinfer(
        "serve", "no-such-model", "--codebook", "SmolLM2-135M-Instruct/2bit", "--prefix", "nowhere.pages"
    )
    assert code == 2
    assert "'nowhere.pages' is no file" in err
    assert not prefixes
