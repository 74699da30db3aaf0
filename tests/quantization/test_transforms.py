# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""transforms.py: q~ . k~ = q . (k - mean) for every head size, and inverses that invert."""

import pytest
import torch
from tiny_codebooks import random_transform

from vecinfer_hf.quantization.packing import _positions
from vecinfer_hf.quantization.transforms import (
    apply_transform,
    hadamard_block,
    hadamard_matrix,
    invert_transform,
    key_inverse,
    query_from_key_transform,
)


HEAD_DIMS = [16, 64, 80, 96, 112, 128, 256]
EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize(("head_dim", "block"), [(64, 64), (80, 16), (96, 32), (112, 16), (128, 128), (3, 1), (6, 2)])
def test_block_is_the_largest_power_of_two(head_dim, block):
    assert hadamard_block(head_dim) == block
    matrix = hadamard_matrix(head_dim)
    assert (matrix != 0).sum().item() == head_dim * block


@pytest.mark.parametrize("mode", [torch.inference_mode, lambda: torch.device("meta")])
def test_what_is_kept_does_not_depend_on_the_first_callers_mode(mode):
    hadamard_matrix.cache_clear()
    _positions.cache_clear()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with mode():
            first, positions = hadamard_matrix(16), _positions(8, 8, "key")
    finally:
        torch.set_default_dtype(torch.float32)
    states = torch.randn(3, 16, requires_grad=True)
    (states @ first).sum().backward()
    assert states.grad is not None
    assert first.device.type == positions.device.type == "cpu"
    assert first.dtype == torch.float32


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_hadamard_is_symmetric_and_its_own_inverse(head_dim):
    matrix = hadamard_matrix(head_dim)
    assert torch.equal(matrix, matrix.T)
    product = matrix.double() @ matrix.double()
    # The entries are block**-0.5 rounded to float32: each product of two is off by at most 2 eps of 1 / block.
    assert (product - torch.eye(head_dim, dtype=torch.float64)).abs().max() <= 2 * EPS


def test_hadamard_order_is_sylvesters():
    """Entry (i, j) of a block has the sign (-1)**popcount(i & j)."""
    matrix = hadamard_matrix(80)
    for i in range(80):
        for j in range(80):
            expected = 0.0 if i // 16 != j // 16 else (-1) ** bin((i % 16) & (j % 16)).count("1") / 4
            assert matrix[i, j].item() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (4, 1)], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("kind", ["smooth_scale", "matrix"])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_scores_do_not_change(head_dim, kind, heads, dtype):
    query_heads, kv_heads = heads
    generator = torch.Generator().manual_seed(head_dim)
    key_transform = random_transform(kv_heads, head_dim, kind, generator)
    mean = torch.randn(kv_heads, head_dim, generator=generator)
    keys = torch.randn(1, kv_heads, 9, head_dim, generator=generator).to(dtype)
    queries = torch.randn(1, query_heads, 5, head_dim, generator=generator).to(dtype)
    group = query_heads // kv_heads
    query_transform = query_from_key_transform(key_transform)
    new_keys = apply_transform(keys, key_transform, mean)
    grouped = queries.view(1, kv_heads, group * 5, head_dim)
    new_queries = apply_transform(grouped, query_transform, None)
    scores = (new_queries.double() @ new_keys.double().transpose(-1, -2)).view(1, query_heads, 5, 9)

    exact = torch.empty_like(scores)
    for head in range(query_heads):
        kv = head // group
        exact[0, head] = queries[0, head].double() @ (keys[0, kv].double() - mean[kv].double()).T
    # Every product of the two transforms is a sum of D terms in float32 and the inverse is rounded to float32, so
    # each transformed vector is off by at most (D + 3) eps of |x| |T|, and |q| |k| |K| |K^-1| bounds the rest.
    condition = 1.0
    if kind == "matrix":
        condition = torch.linalg.cond(key_transform.double()).max().item()
    else:
        condition = (key_transform.amax(-1) / key_transform.amin(-1)).max().item()
    size = queries.double().norm(dim=-1).max() * (keys.double() - mean.double().unsqueeze(1)).norm(dim=-1).max()
    assert (scores - exact).abs().max() <= 2 * (head_dim + 3) * EPS * condition * size


@pytest.mark.parametrize("kind", ["smooth_scale", "matrix"])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_inverse_gives_the_vector_back(head_dim, kind):
    generator = torch.Generator().manual_seed(head_dim)
    transform = random_transform(2, head_dim, kind, generator)
    mean = torch.randn(2, head_dim, generator=generator)
    states = torch.randn(1, 2, 7, head_dim, generator=generator)
    inverse = key_inverse(query_from_key_transform(transform))
    back = invert_transform(apply_transform(states, transform, mean), inverse, mean)
    # Two float32 products of D terms, the error of the first grown by at most the transform's condition number
    # (below 3: tiny_codebooks), and the final sum with the mean.
    bound = 2 * (head_dim + 3) * EPS * 3 * ((states - mean.unsqueeze(1)).norm(dim=-1).max() + mean.norm(dim=-1).max())
    assert (back - states).abs().max() <= bound


def test_no_transform_is_the_identity_in_float32():
    states = torch.randn(1, 2, 3, 16).to(torch.bfloat16)
    assert torch.equal(apply_transform(states, None, None), states.float())
    assert torch.equal(invert_transform(states.float(), None, None), states.float())
    mean = torch.randn(2, 16)
    assert torch.equal(apply_transform(states, None, mean), states.float() - mean.unsqueeze(1))


def test_heads_have_their_own_transform():
    transform = torch.ones(2, 16)
    transform[1] *= 2
    states = torch.randn(1, 1, 4, 16).expand(1, 2, 4, 16)
    rotated = apply_transform(states, transform, None)
    assert torch.equal(rotated[:, 1], 2 * rotated[:, 0])
    assert torch.equal(
        apply_transform(states, torch.stack([torch.eye(16), 3 * torch.eye(16)]), None)[:, 1], 3 * states[:, 1]
    )


def test_an_impulse_spreads_to_its_whole_block_and_no_further():
    states = torch.zeros(1, 1, 1, 80)
    states[..., 18] = 1
    spread = apply_transform(states, torch.ones(1, 80), None)[0, 0, 0]
    assert torch.equal(spread.abs(), torch.tensor([0.0] * 16 + [0.25] * 16 + [0.0] * 48))
