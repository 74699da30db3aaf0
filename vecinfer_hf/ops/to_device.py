# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Small numbers from the host to a device, without waiting until the device has done all its work."""

from __future__ import annotations

import torch


def to_device(
    values: torch.Tensor | list[int], device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return `values` on `device`.

    Args:
        values: a tensor on the CPU, or whole numbers.
        device: where to.
        dtype: of the result; default that of a tensor, int64 of numbers.
    """
    tensor = torch.as_tensor(values, dtype=dtype)
    # CUDA has copied unpinned memory when the call returns; elsewhere that is not said.
    return tensor.to(device, non_blocking=device.type == "cuda")


def to_device_int32(values: list[int], device: torch.device) -> torch.Tensor:
    """Return whole numbers as int32, as the operators take them."""
    return to_device(values, device, torch.int32)
