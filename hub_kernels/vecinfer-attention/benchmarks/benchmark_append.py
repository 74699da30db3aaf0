# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Time append at one token: a decode step's new token in, the oldest of the ring out into the codes.

python benchmarks/benchmark_append.py
"""

from __future__ import annotations

import timing
import torch


from cases import random_codebook, write_args  # isort: skip  (found through timing)
from oracle import format_of, tile_bytes  # isort: skip

HEADS, HEAD_DIM, RESIDUAL, SINKS = 8, 128, 128, 4
LAYERS = 32


def layer(kernel, batch: int, tokens: int, codebook):
    """Return a call that appends to one layer whose ring is full, so that every call quantizes."""
    make = {"device": "cuda", "dtype": torch.bfloat16}
    states = [torch.randn(batch, HEADS, tokens, HEAD_DIM, **make) for _ in range(2)]
    sinks = [torch.randn(batch, HEADS, SINKS, HEAD_DIM, **make) for _ in range(2)]
    ring = [torch.randn(batch, HEADS, RESIDUAL, HEAD_DIM, **make) for _ in range(2)]
    size = tile_bytes(format_of(codebook.key_centroids), format_of(codebook.value_centroids), HEAD_DIM)
    codes = torch.zeros(batch, HEADS, 256, size, dtype=torch.uint8, device="cuda")
    lengths = torch.full((batch,), SINKS + RESIDUAL, dtype=torch.int32, device="cuda")
    quantized = torch.zeros_like(lengths)
    buffers = (codes, None, *sinks, *ring, lengths, quantized)
    return lambda: kernel.append(*states, *buffers, *write_args(codebook))


def main() -> None:
    kernel = timing.kernel()
    print(timing.header())
    print(f"{LAYERS} layers in one graph; Hkv {HEADS}, D {HEAD_DIM}, R {RESIDUAL}; time of one layer's append")
    print("| format | transform | batch | tokens | us |")
    print("|---|---|---|---|---|")
    cases = [("d4b8", "diagonal", batch, tokens) for batch in (1, 8, 64) for tokens in (1, 16)]
    cases += [("d4b8x2", "diagonal", 1, 1), ("d8b8", "diagonal", 1, 1), ("d8b12", "diagonal", 1, 1)]
    cases += [("d4b8", "full", batch, tokens) for batch, tokens in ((1, 1), (1, 16), (8, 1), (64, 1))]
    for fmt, transform, batch, tokens in cases:
        value_transform = "full" if transform == "full" else None
        calls = []
        for _ in range(LAYERS):
            codebook = random_codebook(HEADS, HEAD_DIM, fmt, fmt, transform, value_transform)
            calls.append(layer(kernel, batch, tokens, codebook))
        seconds = timing.graph_time(calls, LAYERS)
        print(f"| {fmt} | {transform} | {batch} | {tokens} | {seconds * 1e6:.2f} |")


if __name__ == "__main__":
    main()
