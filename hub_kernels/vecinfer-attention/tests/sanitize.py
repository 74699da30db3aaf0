# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Run the operators on small inputs under compute-sanitizer: memcheck, racecheck and initcheck.

python tests/sanitize.py                  # all three tools; exit status 1 if one finds something
python tests/sanitize.py --tools memcheck
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys


def work() -> None:
    """Call every operator on shapes with ragged ends. All memory that is read is written first."""
    import cases
    import torch
    from cases import int32
    from conftest import load

    kernel = load()
    for key, value, head_dim, transform in (
        ("d4b8", "d4b8", 128, "diagonal"),
        ("d4b8", "d4b8", 128, "full"),
        ("d4b8x2", "d8b12", 80, "full"),
        ("d4b8x2", "d8b8", 64, "full"),
        ("d2b8", "d8b10", 64, "diagonal"),
    ):
        value_transform = "full" if transform == "full" else None
        codebook = cases.random_codebook(2, head_dim, key, value, transform, value_transform, means=True)
        codes = cases.random_codes(2, 2, 4, codebook, head_dim)
        states = torch.randn(2, 2, 37, head_dim, device="cuda").to(torch.bfloat16)
        kernel.quantize(
            states, states, codes, None, int32(0, 45), int32(37, 30), int32(0, 7), *cases.write_args(codebook)
        )
        sinks, ring = (
            [torch.randn(2, 2, tokens, head_dim, device="cuda").to(torch.bfloat16) for _ in range(2)]
            for tokens in (4, 16)
        )
        lengths, quantized = int32(30, 57), int32(10, 37)
        for tokens in (1, 5):
            new = states[:, :, :tokens]
            buffers = (codes, None, *sinks, *ring, lengths, quantized)
            kernel.append(new, new, *buffers, *cases.write_args(codebook))
        kernel.dequantize(codes, None, *cases.read_args(codebook), head_dim, 5, 80, torch.bfloat16)
        query = torch.randn(2, 8, 3, head_dim, device="cuda").to(torch.bfloat16)
        kernel.decode_attention(query, *buffers, *cases.read_args(codebook), 0.1)
    torch.cuda.synchronize()
    print("done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", default=["memcheck", "racecheck", "initcheck"])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work()
        return
    # The caching allocator would hide accesses past the end of a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    failed = []
    for tool in options.tools:
        command = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=1"]
        # What kernels write that are left out would look uninitialized.
        command += [] if tool == "initcheck" else ["--kernel-name=kns=vecinfer"]
        print(f"== {tool}", flush=True)
        command += [sys.executable, os.path.abspath(__file__), "--work"]
        if subprocess.run(command, env=environment).returncode:
            failed.append(tool)
    if failed:
        raise SystemExit(f"compute-sanitizer found something: {', '.join(failed)}")


if __name__ == "__main__":
    main()
