# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Peers that run their own code: what they read back, token by token too, and every byte they store counted."""

import importlib.util
import sys

import pytest
import torch
from transformers import cache_utils
from transformers.cache_utils import QuantizedCache

from examples.research import peer_packages
from examples.research.peer_packages import package_peers
from examples.research.peers import fp8, uniform_per_token


def installed(*modules):
    """Skip unless the packages are there; CI runs without them."""
    for module in modules:
        if not peer_packages._installed(module):
            pytest.skip(f"needs {module}")


@pytest.fixture
def states():
    return torch.randn(2, 3, 256, 64) * torch.linspace(0.1, 3, 64)


def test_missing_packages_are_left_out_with_the_command_that_brings_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    peers, missing = package_peers(64)
    assert peers == {}
    assert len(missing) == 4
    for package in ("optimum-quanto", "hqq", "tiny-turboquant"):
        assert any(f"(pip install {package})" in line for line in missing)


def test_a_parent_that_is_missing_is_no_error():
    assert not peer_packages._installed("no_such_parent.child")
    assert peer_packages._installed("torch.nn")


def test_a_package_that_fails_is_left_out_with_its_error(monkeypatch):
    def broken(bits):
        raise RuntimeError("unknown device")

    monkeypatch.setattr(peer_packages, "_installed", lambda name: True)
    monkeypatch.setattr(peer_packages, "_Quanto", broken)
    monkeypatch.setattr(peer_packages, "_Hqq", broken)
    monkeypatch.setitem(sys.modules, "tiny_turboquant", None)
    monkeypatch.setitem(sys.modules, "tiny_turboquant.cache", None)
    peers, missing = package_peers(64)
    assert peers == {}
    assert "quanto, 2 bits: does not run here (RuntimeError: unknown device)" in missing
    assert any(line.startswith("tiny-turboquant, K2V2: does not run here (ModuleNotFoundError") for line in missing)


def test_heads_that_are_no_whole_groups_are_left_out():
    peers, missing = package_peers(16)
    assert not any("quanto" in name or "hqq" in name for name in peers)
    assert any("heads of 16 channels are not whole groups of 64" in line for line in missing)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_true_bits_are_those_of_the_formats(head_dim):
    installed("optimum.quanto", "hqq", "tiny_turboquant")
    peers, _ = package_peers(head_dim)
    assert {name: peer.bits for name, peer in peers.items()} == {
        # Scale and offset of 16 bits for 64 elements.
        "quanto, 2 bits": 2 + 32 / 64,
        "quanto, 4 bits": 4 + 32 / 64,
        "hqq, 2 bits": 2 + 32 / 64,
        # Keys: for 128 tokens of a channel; values: for all channels of a token.
        "tiny-turboquant, K2V2": 2 + (32 / 128 + 32 / head_dim) / 2,
    }


def test_quanto_is_exactly_what_its_own_cache_reads_back(states):
    installed("optimum.quanto")
    peer = package_peers(64)[0]["quanto, 2 bits"]
    layer = peer_packages.cache_utils.QuantoQuantizedLayer(nbits=2)
    coded = layer._quantize(states, 0)
    # The package's unpacking, which compiles an extension, done here bit by bit.
    packed = coded._data._data
    codes = torch.cat([(packed >> 2 * index) & 3 for index in range(4)])[: coded._data.shape[0]]
    expected = (coded._scale * codes - coded._shift).view(states.shape)
    torch.testing.assert_close(peer.key(states), expected, rtol=0, atol=0)
    # Minimum and maximum of 64 channels: the arithmetic of peers.py, but for the order of its operations.
    torch.testing.assert_close(peer.value(states), uniform_per_token(2, 64).value(states), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "module"),
    [("quanto, 2 bits", "optimum.quanto"), ("quanto, 4 bits", "optimum.quanto"), ("hqq, 2 bits", "hqq")],
)
def test_whole_texts_are_grouped_like_single_tokens(name, module, states):
    installed(module)
    peer = package_peers(64)[0][name]
    single = torch.cat([peer.key(states[:, :, token : token + 1]) for token in range(8)], dim=2)
    whole = peer.key(states)[:, :, :8]
    if name.startswith("hqq"):
        # hqq stops its search by the mean error of the whole tensor, so that a few steps more or less are taken.
        assert (single - whole).square().mean() < 0.05 * (whole - states[:, :, :8]).square().mean()
    else:
        assert torch.equal(single, whole)


def test_tokens_that_do_not_fill_four_rows_do_not_change_the_others():
    installed("hqq")
    states = torch.randn(1, 1, 9, 64)
    restored = package_peers(64)[0]["hqq, 2 bits"].key(states)
    assert restored.shape == states.shape
    # Each token by itself: the error of 2 bits for normal numbers, far below the numbers.
    assert ((restored - states).square().mean(-1) < 0.5 * states.square().mean(-1)).all()


def test_tiny_turboquant_is_what_its_cache_holds(states):
    installed("tiny_turboquant")
    from tiny_turboquant import TinyKVCache

    peer = package_peers(64)[0]["tiny-turboquant, K2V2"]
    cache = TinyKVCache(key_bits=2, value_bits=2, residual_len=128)
    for token in range(256):
        keys, values = cache.update(states[:, :, token : token + 1], states[:, :, token : token + 1], 0)
    # Of 256 tokens the last 128 are its exact window; the first block is coded.
    assert torch.equal(keys[:, :, :128], peer.key(states)[:, :, :128])
    assert torch.equal(values[:, :, :128], peer.value(states)[:, :, :128])
    assert torch.equal(keys[:, :, 128:], states[:, :, 128:])


def test_fp8_is_transformers_own():
    from transformers import LlamaConfig

    config = LlamaConfig(num_hidden_layers=1, hidden_size=64, num_attention_heads=1, num_key_value_heads=1)
    if not hasattr(cache_utils, "Fp8QuantizedLayer"):
        pytest.skip("needs transformers 5.23")
    states = torch.randn(2, 1, 40, 64)
    cache = QuantizedCache("fp8", config)
    cache.update(states, 2 * states, 0)
    keys, values = cache.update(states[:, :, :1], states[:, :, :1], 0)
    assert torch.equal(keys[:, :, :40], fp8().key(states))
    assert torch.equal(values[:, :, :40], fp8().value(2 * states))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["quanto, 2 bits", "quanto, 4 bits", "hqq, 2 bits", "tiny-turboquant, K2V2"])
def test_a_gpu_reads_back_what_the_cpu_reads_back(name, states):
    peers, missing = package_peers(64, "cuda")
    if name not in peers:
        assert any("not installed" in line for line in missing if line.startswith(name)), missing
        pytest.skip(f"needs the package of {name}")
    for side in ("key", "value"):
        gpu, cpu = getattr(peers[name], side)(states.cuda()).cpu(), getattr(peers[name], side)(states)
        if "hqq" in name:
            # It searches in float16 on a GPU: other scales, but errors of the same size.
            errors = [(read - states).square().mean().item() for read in (gpu, cpu)]
            assert errors[0] == pytest.approx(errors[1], rel=0.1)
        else:
            # A value in the middle of two codes may fall either way.
            assert (gpu - cpu).abs().gt(1e-4).float().mean() < 1e-3
