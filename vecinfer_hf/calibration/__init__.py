# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration: a model and text to a Codebook. Owns how codebooks are made, and nothing of how they are used."""

from .allocate import allocate_bits, measure_sensitivity, predicted_sensitivity
from .calibrate import calibrate
from .loss import QuantizationLoss, quantization_loss
from .refine import refine


__all__ = [
    "QuantizationLoss",
    "allocate_bits",
    "calibrate",
    "measure_sensitivity",
    "predicted_sensitivity",
    "quantization_loss",
    "refine",
]
