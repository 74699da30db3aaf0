# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""decode_attention on a CPU beside torch's SDPA, interleaved in one run; medians of the time this process computes.

    python benchmarks/benchmark_cpu.py --shape 8,4,128 --tokens 2048,8192,32768

SDPA gets plain keys and values with the group as query rows ("folded"), which is several times faster on a CPU than
enable_gqa; the operator has sinks, a window, means and full transforms. Processor time, because other programs of a
shared machine lengthen only the clock's; with more than one thread it counts all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


os.environ["VECINFER_KERNEL_BACKEND"] = "cpu"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch  # noqa: E402
from conftest import load  # noqa: E402
from decode_cases import Cache  # noqa: E402


PATHS = ("avx2", "avx512", "vnni")
DTYPES = (torch.float32, torch.bfloat16)


def operator(kernel, path: str, cache: Cache) -> Callable[[], None]:
    """Return a call of the operator on one path."""
    arguments = cache.arguments()

    def call() -> None:
        os.environ["VECINFER_CPU_PATH"] = path
        kernel.decode_attention(*arguments)

    return call


def sdpa(heads: int, group: int, dim: int, tokens: int, dtype: torch.dtype, folded: bool) -> Callable[[], None]:
    """Return a call of SDPA on plain keys and values of the same shape."""
    query = torch.randn(1, heads, group, dim).to(dtype)
    keys, values = (torch.randn(1, heads, tokens, dim).to(dtype) for _ in range(2))
    if folded:
        return lambda: torch.nn.functional.scaled_dot_product_attention(query, keys, values)
    query = query.view(1, heads * group, 1, dim)
    return lambda: torch.nn.functional.scaled_dot_product_attention(query, keys, values, enable_gqa=True)


def main() -> None:
    """Print a table of milliseconds, and each path's ratio to the best folded SDPA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="8,4,128", help="key/value heads, query heads of each, head size")
    parser.add_argument("--tokens", default="2048,8192,32768")
    parser.add_argument("--format", default="d4b8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    heads, group, dim = (int(part) for part in options.shape.split(","))
    kernel = load()
    if kernel is None:
        raise SystemExit("The CPU kernels are not built: run build_cpu.py.")
    for tokens in (int(part) for part in options.tokens.split(",")):
        calls = {}
        for dtype in DTYPES:
            name = str(dtype).removeprefix("torch.")
            cache = Cache(
                [tokens], heads=heads, group=group, head_dim=dim, dtype=dtype, key=options.format,
                value=options.format, transform="full", value_transform="full", means=True,
            )  # fmt: skip
            calls |= {f"{path} {name}": operator(kernel, path, cache) for path in PATHS}
            calls |= {f"SDPA {name}": sdpa(heads, group, dim, tokens, dtype, True)}
            calls |= {f"SDPA gqa {name}": sdpa(heads, group, dim, tokens, dtype, False)}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for round_ in range(options.rounds + 1):
            for name, call in calls.items():
                started = time.process_time()
                call()
                if round_:
                    times[name].append((time.process_time() - started) * 1e3)
        median = {name: statistics.median(found) for name, found in times.items()}
        best = min(median[f"SDPA {name}"] for name in ("float32", "bfloat16"))
        print(f"{tokens} tokens, best folded SDPA {best:.2f} ms")
        for name, found in times.items():
            spread = f"{median[name]:.2f} ms ({min(found):.2f} to {max(found):.2f})"
            print(f"| {name} | {spread} | {best / median[name]:.2f} x |")


if __name__ == "__main__":
    main()
