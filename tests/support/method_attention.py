# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""METHOD.md section 4 in float64: direct softmax over exact and coded tokens, with a bound on float32's error.

Part of the method model (method_model.py says how the parts fit). Shares no code with the package: numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from method_codes import EPS, LayerCodes


@dataclass(frozen=True)
class Tokens:
    """What one key/value head holds of one row, in the order of the text. `N` tokens, head size `D`.

    Args:
        keys: float64 `[N, D]`, the exact keys.
        values: float64 `[N, D]`.
        code_keys: float64 `[N, D]`, the keys' codes as vectors of the transformed space; anything where not coded.
        code_values: float64 `[N, D]`.
        coded: bool `[N]`, which tokens are read as codes.
    """

    keys: np.ndarray
    values: np.ndarray
    code_keys: np.ndarray
    code_values: np.ndarray
    coded: np.ndarray


def attention(
    query: np.ndarray,
    tokens: Tokens,
    codes: LayerCodes | None,
    head: int,
    visible: np.ndarray,
    scale: float,
    softcap: float = 0.0,
    sink_logits: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the attention of the query heads of one key/value head over its tokens.

    Scores are `scale * q . k` for exact and `scale * (q~ . C + q . mu)` for coded tokens; the values' transform is
    undone once, on the weighted sum.

    Args:
        query: float64 `[G, Tq, D]`, the queries of the `G` heads that read this key/value head.
        tokens: what is stored.
        codes: the layer's codebook; None if no token is coded.
        head: which key/value head of `codes`.
        visible: bool `[Tq, N]`, which tokens each query sees.
        scale: softmax scale.
        softcap: scores become `softcap * tanh(score / softcap)`; 0 for none.
        sink_logits: `[G]`, one logit without a value for each query head (GPT-OSS), or None.

    Returns:
        float64 `[G, Tq, D]`, zeros for a query that sees nothing, and a bound of the same shape on how far a float32
        evaluation may be off.
    """
    coded = tokens.coded
    dim = query.shape[-1]
    scores = query @ tokens.keys.T
    sizes = np.abs(query) @ np.abs(tokens.keys).T
    key_error = np.zeros_like(tokens.keys)
    value_error = np.zeros_like(tokens.values)
    value_size = np.abs(tokens.values)
    if coded.any():
        side = codes.key
        dual = query @ side.inverse[head].T
        scores[..., coded] = (dual @ tokens.code_keys[coded].T) + (query @ side.mean[head])[..., None]
        read, key_error[coded] = side.decoded(tokens.code_keys[coded], head)
        sizes[..., coded] = np.abs(query) @ np.abs(read).T
        read, value_error[coded] = codes.value.decoded(tokens.code_values[coded], head)
        value_size[coded] = np.abs(read)
    error = scale * (np.abs(query) @ key_error.T + EPS * (dim + 8) * sizes)
    scores = scale * scores
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
        error = error + 4 * EPS * softcap
    scores = np.where(visible, scores, -np.inf)
    logits = np.full((*scores.shape[:2], 1), -np.inf)
    if sink_logits is not None:
        logits[:] = np.asarray(sink_logits, np.float64)[:, None, None]
    top = np.maximum(scores.max(-1, keepdims=True, initial=-np.inf), logits)
    top = np.where(np.isfinite(top), top, 0.0)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True) + np.exp(logits - top)
    weights = weights / np.where(total > 0, total, 1.0)
    output = weights[..., ~coded] @ tokens.values[~coded]
    if coded.any():
        side, part = codes.value, weights[..., coded]
        summed = (part @ tokens.code_values[coded]) @ side.inverse[head]
        output = output + summed + part.sum(-1, keepdims=True) * side.mean[head]
    # Every weight may be off by twice the largest error of a score, and by one rounding per token of the sum.
    error = np.where(visible, error, 0.0).max(-1, keepdims=True, initial=0.0)
    relative = 2 * error + EPS * (len(coded) + dim + 16)
    return output, relative * (weights @ value_size) + weights @ value_error
