# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Time quantize on a whole prefill of one Llama-3.1-8B layer, against that layer's own bf16 prefill and its floors.

python benchmarks/benchmark_quantize.py [--tokens 32768]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import timing
import torch


from cases import FORMATS, int32, random_codebook, write_args  # isort: skip  (found through timing)
from oracle import format_of, tile_bytes  # isort: skip

HIDDEN, MLP, QUERY_HEADS, HEADS, HEAD_DIM = 4096, 14336, 32, 8, 128


def layer_time(tokens: int) -> tuple[float, float]:
    """Return the seconds of the layer's matrix products and of its causal attention, bf16, batch 1."""
    shapes = [
        (HIDDEN, QUERY_HEADS * HEAD_DIM),
        (HIDDEN, HEADS * HEAD_DIM),
        (HIDDEN, HEADS * HEAD_DIM),
        (QUERY_HEADS * HEAD_DIM, HIDDEN),
        (HIDDEN, MLP),
        (HIDDEN, MLP),
        (MLP, HIDDEN),
    ]
    inputs = {size: torch.randn(tokens, size, device="cuda", dtype=torch.bfloat16) for size in (HIDDEN, MLP)}
    weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for k, n in shapes]

    def products():
        for (size, _), weight in zip(shapes, weights, strict=True):
            torch.nn.functional.linear(inputs[size], weight)

    linear = timing.event_time(products, 5)
    query = torch.randn(1, QUERY_HEADS, tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    key, value = (torch.randn(1, HEADS, tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    return linear, timing.event_time(lambda: attend(query, key, value, is_causal=True, enable_gqa=True), 5)


def arithmetic_rates() -> dict[str, float] | None:
    """Return scores per second by elements of a sub-vector, and under "matrix" a full matrix's multiplications.

    None if there is no nvcc to compile search_floor.cu with.
    """
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        print("no nvcc was found to compile search_floor.cu with: no arithmetic floors")
        return None
    major, minor = torch.cuda.get_device_capability()
    arch = f"{major}{minor}" + "a" * (major == 9)
    source = Path(__file__).with_name("search_floor.cu")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "search_floor")
        flags = ["-O3", "-std=c++20", "--expt-relaxed-constexpr", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
        subprocess.run([nvcc, *flags, str(source), "-o", program], check=True)
        output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    rates = {name: float(rate) for name, rate in (line.split() for line in output.splitlines())}
    print("per second: " + ", ".join(f"{name} {rate:.2e}" for name, rate in rates.items()))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    tokens = parser.parse_args().tokens
    kernel = timing.kernel()
    print(timing.header())
    rates = arithmetic_rates()
    bandwidth = timing.copy_bandwidth()
    linear, attention = layer_time(tokens)
    layer = linear + attention
    print(f"layer prefill, {tokens} tokens, bf16: products {linear * 1e3:.2f} ms, attention {attention * 1e3:.2f} ms")
    print("| keys = values | transform | us | of the layer | memory floor us | arithmetic floor us | floor / time |")
    print("|---|---|---|---|---|---|---|")
    states = [torch.randn(1, HEADS, tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    numbers = int32(0), int32(tokens), int32(0)
    cases = [(fmt, "diagonal") for fmt in FORMATS] + [(fmt, "full") for fmt in ("d4b8", "d4b8x2", "d8b8")]
    for fmt, transform in cases:
        codebook = random_codebook(HEADS, HEAD_DIM, fmt, fmt, transform, None if transform == "diagonal" else "full")
        form = format_of(codebook.key_centroids)
        size = tile_bytes(form, form, HEAD_DIM)
        codes = torch.zeros(1, HEADS, (tokens + 31) // 32, size, dtype=torch.uint8, device="cuda")
        call = lambda: kernel.quantize(*states, codes, None, *numbers, *write_args(codebook))  # noqa: E731, B023
        seconds = timing.graph_time([call], 8)
        memory = (sum(x.nbytes for x in states) + codes.nbytes) / bandwidth
        scores = 2 * tokens * HEADS * HEAD_DIM // form.dim * form.num_codes * 2**form.bits
        floor, arithmetic = memory, None
        if rates is not None:
            arithmetic = scores / rates[str(form.dim)]
            if transform == "full":
                # bf16 states by a high and a low bf16 of the matrix, for keys and for values.
                arithmetic += 2 * 2 * tokens * HEADS * HEAD_DIM**2 / rates["matrix"]
            floor = max(memory, arithmetic)
        print(
            f"| {fmt} | {transform} | {seconds * 1e6:.1f} | {seconds / layer:.2%} | {memory * 1e6:.1f} | "
            f"{'' if arithmetic is None else f'{arithmetic * 1e6:.1f}'} | {floor / seconds:.0%} |"
        )


if __name__ == "__main__":
    main()
