# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Modes of a model that calibration changes for a while and puts back, also after an exception."""

from __future__ import annotations

from contextlib import contextmanager

import torch


@contextmanager
def evaluation_mode(model: torch.nn.Module):
    """Run the block with every module in evaluation mode, gradients on; afterwards each module has its own mode."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        # A caller may be inside `torch.no_grad` or `torch.inference_mode`; recipes need gradients.
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def frozen_parameters(model: torch.nn.Module):
    """Run the block with no gradient towards the parameters; afterwards those that had one have it again."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
