# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where a model and its layers compute, also where accelerate offloads weights or spreads layers over devices."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def computing_device(module: torch.nn.Module) -> torch.device:
    """Return the device of what `module` computes; offloaded weights are on "meta" between passes."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        weights = next(part.parameters(recurse=False), None)
        if weights is not None and weights.device.type != "meta":
            return weights.device
    return next(module.parameters()).device


def layer_devices(model: PreTrainedModel, indices: list[int]) -> dict[int, torch.device]:
    """Return layer index -> device of its attention; the model's device for a layer without a module of its own."""
    found = dict.fromkeys(indices, computing_device(model))
    for module in model.modules():
        if getattr(module, "layer_idx", None) in found and next(module.parameters(), None) is not None:
            found[module.layer_idx] = computing_device(module)
    return found
