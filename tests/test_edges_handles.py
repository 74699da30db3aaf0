# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a model may do with the handles that stand for cached keys and values: hand them to its attention function."""

import pytest
import torch
from edge_cases import new_cache, tiny_model
from tiny_models import tiny_inputs

from vecinfer_hf.integration.compat import cache_argument


def handles():
    """Return the handles that a cache gives to a model with vecinfer attention."""
    model = tiny_model("llama")
    model.set_attn_implementation("vecinfer")
    seen = []
    cache = new_cache(model.config)
    update = cache.update

    def keep(*args, **kwargs):
        seen.append(update(*args, **kwargs))
        return seen[-1]

    cache.update = keep
    with torch.no_grad():
        model(tiny_inputs(1, 5), **cache_argument(cache))
    return seen[0]


OPERATIONS = {
    "torch.cat": lambda x: torch.cat([x, x], dim=1),
    "torch.repeat_interleave": lambda x: torch.repeat_interleave(x, 2, dim=1),
    "torch.matmul": lambda x: torch.matmul(torch.ones(1, 4, 5, 16), x),
    "torch.chunk": lambda x: torch.chunk(x, 2, dim=1),
    "torch.nn.functional.pad": lambda x: torch.nn.functional.pad(x, (0, 1)),
    "torch.einsum": lambda x: torch.einsum("bhtd,bhtd->bh", x, x),
    "torch.nn.functional.scaled_dot_product_attention": lambda x: torch.nn.functional.scaled_dot_product_attention(
        torch.ones(1, 2, 5, 16), x, x
    ),
    "a method": lambda x: x.transpose(1, 2),
    "shape": lambda x: x.shape,
    "an index": lambda x: x[:, :, -1],
    "a sum": lambda x: x + 1,
    "a sum from the left": lambda x: torch.ones(1) + x,
    "a product": lambda x: 2 * x,
    "@": lambda x: torch.ones(1, 2, 5, 16) @ x,
    "assignment": lambda x: x.__setitem__(0, 1),
    "in place": lambda x: x.mul_(2),
    "to another device": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_handle_answers_whatever_is_done_with_it_by_one_sentence(name):
    """Not an AttributeError of torch: which model is this, and what works instead."""
    handle = handles()[0]
    with pytest.raises(Exception, match="(?i)(default|stock) cache") as raised:
        OPERATIONS[name](handle)
    assert "cached keys or values" in str(raised.value)
