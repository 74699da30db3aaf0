# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""append: sinks, ring, what leaves the ring, lengths; against a row-by-row model of the buffers."""

from __future__ import annotations

import cases
import oracle
import pytest
import torch
from cases import int32


pytestmark = pytest.mark.gpu


class Buffers:
    """Buffers of one layer full of junk, and the model: every row's tokens in order."""

    def __init__(self, codebook, lengths, quantized, heads, head_dim, sinks, residual, dtype=torch.bfloat16):
        batch = len(lengths)
        self.codebook, self.residual, self.sinks = codebook, residual, sinks
        self.head_dim = head_dim
        self.codes = cases.random_codes(batch, heads, 8, codebook, head_dim)
        self.sink_keys, self.sink_values = (
            cases.random_states(batch, heads, sinks, head_dim, dtype) for _ in range(2)
        )
        self.ring_keys, self.ring_values = (
            cases.random_states(batch, heads, residual, head_dim, dtype) for _ in range(2)
        )
        self.lengths, self.quantized_lengths = int32(*lengths), int32(*quantized)

    def tensors(self):
        return (
            self.codes,
            self.sink_keys,
            self.sink_values,
            self.ring_keys,
            self.ring_values,
            self.lengths,
            self.quantized_lengths,
        )

    def arguments(self):
        """The tensors in the operator's order, without a block table."""
        return (self.codes, None, *self.tensors()[1:])

    def clone(self):
        twin = object.__new__(Buffers)
        twin.__dict__.update(
            {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in self.__dict__.items()}
        )
        return twin


def expected(buffers, keys, values):
    """Change `buffers` as the specification says, token by token, and return (row, slot, key, value) of new codes."""
    left = []
    for row in range(keys.shape[0]):
        for token in range(keys.shape[2]):
            index, quantized = int(buffers.lengths[row]), int(buffers.quantized_lengths[row])
            if index < buffers.sinks:
                buffers.sink_keys[row, :, index] = keys[row, :, token]
                buffers.sink_values[row, :, index] = values[row, :, token]
            else:
                place = (index - buffers.sinks) % buffers.residual
                if index - buffers.sinks - quantized == buffers.residual:
                    left.append(
                        (
                            row,
                            quantized,
                            buffers.ring_keys[row, :, place].clone(),
                            buffers.ring_values[row, :, place].clone(),
                        )
                    )
                    buffers.quantized_lengths[row] += 1
                buffers.ring_keys[row, :, place] = keys[row, :, token]
                buffers.ring_values[row, :, place] = values[row, :, token]
            buffers.lengths[row] += 1
    return left


def check(kernel, buffers, tokens, heads, dtype=torch.bfloat16):
    batch = buffers.lengths.shape[0]
    keys, values = (cases.random_states(batch, heads, tokens, buffers.head_dim, dtype) for _ in range(2))
    before, model = buffers.codes.clone(), buffers.clone()
    left = expected(model, keys, values)
    codebook = buffers.codebook
    kernel.append(keys, values, *buffers.arguments(), *cases.write_args(codebook))
    for got, want in zip(buffers.tensors()[1:], model.tensors()[1:], strict=True):
        assert torch.equal(got, want)
    formats = cases.formats(codebook)
    for side, state in (("key", 2), ("value", 3)):
        got = oracle.read_codes(buffers.codes, *formats, buffers.head_dim, side)
        old = oracle.read_codes(before, *formats, buffers.head_dim, side)
        weight, mean = (
            (codebook.key_transform, codebook.key_mean)
            if side == "key"
            else (codebook.value_transform, codebook.value_mean)
        )
        for entry in left:
            row, slot = entry[:2]
            new = got[row : row + 1, :, slot : slot + 1]
            centroids, unit = (getattr(codebook, f"{side}_centroids"), getattr(codebook, f"{side}_centroid_scale"))
            cases.assert_nearest(entry[state][None, :, None], new, weight, mean, centroids, unit)
            old[row, :, slot] = got[row, :, slot]
        assert torch.equal(got, old)


@pytest.mark.kernels_ci
@pytest.mark.parametrize("key", cases.FORMATS)
@pytest.mark.parametrize("value", ["d4b8", "d8b10"])
def test_formats(kernel, key, value):
    codebook = cases.random_codebook(2, 128, key, value)
    buffers = Buffers(codebook, [0, 3, 35, 36, 100], [0, 0, 0, 0, 64], 2, 128, sinks=4, residual=32)
    for tokens in (1, 1, 7, 16):
        check(kernel, buffers, tokens, 2)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("transform", ["diagonal", "full"])
@pytest.mark.parametrize("value_transform", [None, "full"])
def test_transforms(kernel, head_dim, transform, value_transform):
    codebook = cases.random_codebook(2, head_dim, "d4b8", "d4b8x2", transform, value_transform, means=True)
    buffers = Buffers(codebook, [40, 50], [20, 30], 2, head_dim, sinks=0, residual=20, dtype=torch.float16)
    for tokens in (1, 5, 16):
        check(kernel, buffers, tokens, 2, torch.float16)


def test_after_a_crop(kernel):
    """A ring shorter than R, because coded tokens are never un-coded, refills before it gives anything away."""
    codebook = cases.random_codebook(2, 128)
    buffers = Buffers(codebook, [50, 46], [40, 42], 2, 128, sinks=4, residual=16)
    for tokens in (3, 6, 1, 12):
        check(kernel, buffers, tokens, 2)


def test_a_ring_that_grows(kernel):
    """Rings that no token has left yet are replaced by longer copies; the last one has all its slots."""
    codebook = cases.random_codebook(2, 128)
    buffers = Buffers(codebook, [0, 1], [0, 0], 2, 128, sinks=2, residual=16)
    for slots, tokens in ((16, (1, 15)), (30, (14,)), (48, (16, 4))):
        for name in ("ring_keys", "ring_values"):
            old = getattr(buffers, name)
            longer = torch.full((2, 2, slots, 128), 1e4, dtype=old.dtype, device=old.device)
            longer[:, :, : old.shape[2]] = old
            setattr(buffers, name, longer)
        buffers.residual = slots
        for count in tokens:
            check(kernel, buffers, count, 2)
    assert buffers.quantized_lengths.tolist() == [0, 1]


def test_together_or_one_by_one(kernel):
    codebook = cases.random_codebook(2, 128, "d4b8x2", "d8b12")
    one = Buffers(codebook, [30, 60], [10, 40], 2, 128, sinks=4, residual=16)
    many = one.clone()
    keys, values = (cases.random_states(2, 2, 16, 128, torch.bfloat16) for _ in range(2))
    kernel.append(keys, values, *many.arguments(), *cases.write_args(codebook))
    for token in range(16):
        part = slice(token, token + 1)
        kernel.append(keys[:, :, part], values[:, :, part], *one.arguments(), *cases.write_args(codebook))
    for got, want in zip(one.tensors(), many.tensors(), strict=True):
        assert torch.equal(got, want)


def test_same_codes_as_quantize(kernel):
    codebook = cases.random_codebook(2, 128, "d4b8x2", "d8b8")
    buffers = Buffers(codebook, [20], [0], 2, 128, sinks=4, residual=16)
    leaving = [x[:, :, :9].clone() for x in (buffers.ring_keys, buffers.ring_values)]
    codes = buffers.codes.clone()
    states = cases.random_states(1, 2, 9, 128, torch.bfloat16)
    kernel.append(states, states, *buffers.arguments(), *cases.write_args(codebook))
    kernel.quantize(*leaving, codes, None, int32(0), int32(9), int32(0), *cases.write_args(codebook))
    assert torch.equal(buffers.codes, codes)


def test_full_code_buffer(kernel):
    """Tokens that no longer fit are not written past the end."""
    codebook = cases.random_codebook(1, 128)
    buffers = Buffers(codebook, [36], [16], 1, 128, sinks=4, residual=16)
    buffers.quantized_lengths.fill_(64)
    buffers.lengths.fill_(84)
    whole = buffers.codes
    before = whole.clone()
    buffers.codes = whole[:, :, :2]
    states = cases.random_states(1, 1, 4, 128, torch.bfloat16)
    kernel.append(states, states, *buffers.arguments(), *cases.write_args(codebook))
    assert torch.equal(whole, before)


def test_refusals(kernel):
    codebook = cases.random_codebook(2, 128)
    args = cases.write_args(codebook)

    def refused(message, keys, values, buffers, block_table=None):
        before = [tensor.clone() for tensor in buffers.tensors()]
        with pytest.raises(RuntimeError, match=message):
            kernel.append(keys, values, buffers.codes, block_table, *buffers.arguments()[2:], *args)
        assert all(torch.equal(old, new) for old, new in zip(before, buffers.tensors(), strict=True))

    def fresh(residual=16):
        return Buffers(codebook, [40], [20], 2, 128, sinks=4, residual=residual)

    states = cases.random_states(1, 2, 17, 128, torch.bfloat16)
    one = states[:, :, :1]
    refused("at most 16 tokens at a time and no more than the ring's 32 slots, not 17", states, states, fresh(32))
    refused("no more than the ring's 8 slots, not 9", states[:, :, :9], states[:, :, :9], fresh(8))
    refused("values have head size 64 and keys 128", one, one[..., :64], fresh())
    refused("block_table has shape", one, one, fresh(), int32(0, 1))
    wrong = fresh()
    wrong.ring_values = wrong.ring_values.half()
    refused("ring_values is float16, but it must be bfloat16", one, one, wrong)
