# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The same model with random weights in one process and over several, made on the device without a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig


@contextmanager
def processes() -> Iterator[int]:
    """Join the processes of torchrun, NCCL on GPUs and gloo on the CPU, and give their number.

    Raises:
        RuntimeError: if torchrun did not start this process.
    """
    if "LOCAL_RANK" not in os.environ:
        raise RuntimeError("Start this with torchrun --nproc-per-node N.")
    rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    else:
        dist.init_process_group("gloo")
    yield dist.get_world_size()
    dist.destroy_process_group()


def make_model(config: PreTrainedConfig, split: bool) -> PreTrainedModel:
    """Return a model of this shape, bfloat16 on a GPU and float32 on the CPU.

    Args:
        config: the shape; it is copied, since transformers notes the processes in it.
        split: over all processes (tensor parallel), else whole in each of them.
    """
    cuda = torch.cuda.is_available()
    options = {"dtype": torch.bfloat16 if cuda else torch.float32, "config": type(config).from_dict(config.to_dict())}
    if split:
        options["distributed_config"] = DistributedConfig(tp_plan="auto")
    elif cuda:
        options["device_map"] = {"": torch.cuda.current_device()}
    # No checkpoint: transformers makes every weight on its device.
    model = AutoModelForCausalLM._model_mapping[type(config)].from_pretrained(None, state_dict={}, **options)
    if cuda and model.device.type != "cuda":
        raise RuntimeError(f"transformers made the weights on {model.device}, not on a GPU.")
    fill_weights(model)
    # Random weights choose random tokens; one that ends the text would end the measurement.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def own_nbytes(model: PreTrainedModel) -> int:
    """Return the bytes of the parameters that this process holds."""
    return sum(_local(parameter).nbytes for parameter in model.parameters())


def _local(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@torch.no_grad()
def fill_weights(model: PreTrainedModel) -> None:
    """Fill all parameters from fixed seeds, with the same numbers however the model is split; norms become 1."""
    for seed, parameter in enumerate(model.parameters()):
        if parameter.dim() < 2:
            parameter.fill_(1)
            continue
        local = _local(parameter)
        generator = torch.Generator(local.device).manual_seed(seed)
        values = torch.empty(parameter.shape, dtype=parameter.dtype, device=local.device)
        values.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
        if isinstance(parameter, DTensor):
            values = distribute_tensor(
                values, parameter.device_mesh, parameter.placements, src_data_rank=None
            ).to_local()
        local.copy_(values)
