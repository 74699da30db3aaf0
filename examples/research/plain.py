# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Plain product quantization: this package's k-means without any transform, the smooth scale 1 and no rotation.

Owns only that; it is a row of the comparison and no way to make a codebook that is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transformers import PreTrainedModel

from vecinfer_hf.calibration.fit import drawn_tokens
from vecinfer_hf.calibration.recorder import record_states
from vecinfer_hf.calibration.windows import calibration_windows
from vecinfer_hf.calibration_config import CalibrationConfig
from vecinfer_hf.model_info import full_attention_layers
from vecinfer_hf.quantization.fake_quant import FakeQuantizer
from vecinfer_hf.quantization.formats import parse_format
from vecinfer_hf.quantization.quantizer import round_to_int8
from vecinfer_hf.quantization.residual_kmeans import residual_kmeans

from .peers import PeerSimulator


def plain_layers(
    model: PreTrainedModel,
    tokenizer,
    texts: Mapping[str, str],
    config: CalibrationConfig,
    *,
    bits: float = 2,
    progress: Callable[[int], None] | None = None,
) -> dict[int, PeerSimulator]:
    """Fit centroids to keys (after RoPE) and values as they are: PQ with `lambda = 1, H = I`.

    The same sub-vectors, number of centroids, int8 rounding, sinks and k-means as a codebook of as many bits.

    Args:
        model: the model, unchanged afterwards.
        tokenizer: its tokenizer.
        texts: name -> text to fit on.
        config: sequence_length, num_tokens, num_samples, num_iterations, sink_length and seed are used.
        bits: bits per element.
        progress: called with the number of layers done, one at a time.

    Returns:
        Layer index -> simulator.
    """
    windows, _ = calibration_windows(tokenizer, texts, config.sequence_length, config.num_tokens)
    indices = full_attention_layers(model.config)
    options = {"sink_length": config.sink_length, "num_samples": config.num_samples, "seed": config.seed}
    states = record_states(model, windows, indices, **options)
    code_format = parse_format(bits)
    layers = {}
    for index in indices:
        sides = []
        for vectors in (states[index].keys, states[index].values):
            points = vectors.index_select(1, drawn_tokens(vectors, code_format, config.seed)).float()
            centroids = residual_kmeans(
                points.reshape(points.shape[0], -1, code_format.subvector_dim),
                code_format.num_codes,
                code_format.codebook_size,
                num_iterations=config.num_iterations,
                seed=config.seed,
            )
            codes, scale = round_to_int8(centroids)
            sides.append(FakeQuantizer(None, None, codes, scale))
        layers[index] = PeerSimulator(*sides, float(bits)).requires_grad_(False)
        if progress is not None:
            progress(1)
    return layers
