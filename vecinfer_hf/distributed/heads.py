# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which key/value heads a process has under transformers' tensor parallelism, and tensors of the heads of all of them.

`from_pretrained(distributed_config=DistributedConfig(tp_plan="auto"))` gives each of `size` processes an equal,
contiguous share of every layer's heads, in the order of their ranks:

    heads      0  1  2  3 | 4  5  6  7
    process    rank 0     | rank 1
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from ..model_info import head_shapes, text_config


_KEY_PROJECTIONS = ("k_proj", "qkv_proj", "query_key_value")
"""Names of the linear layers whose output holds a layer's keys, as in transformers' tensor-parallel plans."""


class HeadShard(NamedTuple):
    """The heads of one process: share number `rank` of `size` equal ones."""

    rank: int
    size: int

    def of(self, heads: int) -> slice:
        """Return which of a layer's `heads` heads they are."""
        own = heads // self.size
        return slice(self.rank * own, (self.rank + 1) * own)


ALL_HEADS = HeadShard(0, 1)
"""The share of a process that has every head."""


def head_shard(model_or_config: PreTrainedModel | PreTrainedConfig) -> HeadShard:
    """Return which key/value heads of the model this process has.

    Args:
        model_or_config: the model, or its config, in which transformers notes the processes of a loaded model.

    Raises:
        UnsupportedModelError: if the processes cannot have equally many heads.
    """
    is_model = isinstance(model_or_config, PreTrainedModel)
    config = model_or_config.config if is_model else model_or_config
    size = (getattr(model_or_config, "_tp_size", None) if is_model else _noted_size(config)) or 1
    if size == 1 or not _splits_heads(model_or_config.tp_plan if is_model else _plan(config)):
        return ALL_HEADS
    for index, shape in head_shapes(config).items():
        if shape.num_key_value_heads % size:
            raise UnsupportedModelError(
                f"No VecInfer cache for this model: {size} processes (tensor parallel) cannot have equally many of "
                f"the {shape.num_key_value_heads} key/value heads of layer {index}. Use a number of processes that "
                f"divides {shape.num_key_value_heads}."
            )
    # The processes of one tensor-parallel group have consecutive ranks.
    return HeadShard(dist.get_rank() % size, size)


def _noted_size(config: PreTrainedConfig) -> int | None:
    """Return the number of tensor-parallel processes that run a model with this config, or None."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    return getattr(getattr(config, "distributed_config", None), "tp_size", None)


def _plan(config: PreTrainedConfig) -> dict[str, str]:
    """Return the tensor-parallel plan that transformers used for a config: the model type's own, or the user's."""
    own, given = text_config(config).base_model_tp_plan, config.distributed_config.tp_plan
    return {**(own or {}), **(given if isinstance(given, dict) else {})}


def _splits_heads(plan: dict[str, str] | None) -> bool:
    """Whether a tensor-parallel plan gives each process a part of the heads; attention is whole in the others."""
    return any(
        name.rsplit(".", 1)[-1] in _KEY_PROJECTIONS and style == "colwise" for name, style in (plan or {}).items()
    )


def process_group(model: PreTrainedModel) -> Any:
    """Return the processes that share the heads of `model`, None for all of them."""
    mesh = getattr(model, "_device_mesh", None)
    if mesh is None:
        return None
    return mesh.get_group("tp") if mesh.ndim > 1 else mesh.get_group()


def gather_heads(
    own: torch.Tensor, shard: HeadShard, device: torch.device, group: Any = None, dim: int = 0
) -> torch.Tensor:
    """Return the tensor of all heads from each process's part; all processes call this together.

    Args:
        own: this process's heads, along `dim`.
        shard: which ones they are.
        device: a device on which the processes exchange tensors, the model's.
        group: the processes, as `process_group` returns them.
        dim: the dimension of the heads.

    Returns:
        A tensor with `shard.size` times as many heads, on the device of `own`.
    """
    if shard.size == 1:
        return own
    sent = own.transpose(0, dim).to(device).contiguous()
    received = [torch.empty_like(sent) for _ in range(shard.size)]
    dist.all_gather(received, sent, group=group)
    return torch.cat(received).transpose(0, dim).contiguous().to(own.device)


def on_any_process(flag: bool, model: PreTrainedModel) -> bool:
    """Return whether `flag` is True on a process that runs `model`; all of them call this together."""
    if head_shard(model).size == 1:
        return flag
    flags = torch.tensor([int(flag)], device=model.device)
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=process_group(model))
    return bool(flags.item())
