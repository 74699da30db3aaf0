# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Build this kernel's CPU variant with a C++ compiler alone: g++, or whatever CXX names.

    python build_cpu.py                   # build/torch-stable-abi211-cpu-x86_64-linux
    python build_cpu.py --sanitize        # with address and undefined-behaviour sanitizers, into _build/sanitized

`kernels.get_local_kernel(Path("hub_kernels/vecinfer-attention"), backend="cpu")` loads the result on torch 2.11 and
newer. One library serves all machines of an architecture: it chooses among instruction sets when it is called.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parents[1]))

from build_local import report  # noqa: E402

from vecinfer_hf.errors import KernelBuildError  # noqa: E402
from vecinfer_hf.kernel_build.compilers import find_cxx  # noqa: E402
from vecinfer_hf.kernel_build.variant import build_variant  # noqa: E402


SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def main(argv: list[str] | None = None) -> Path:
    """Build and return the variant's directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="compiler processes (default 2)")
    parser.add_argument("--output", type=Path, help="directory of the variants (default build)")
    parser.add_argument("--id", help="name of this build; default is a hash of the sources")
    parser.add_argument("--sanitize", action="store_true", help="address and undefined-behaviour sanitizers")
    parser.add_argument("--if-possible", action="store_true", help="without a compiler, say so and succeed")
    options = parser.parse_args(argv)

    try:
        compiler = find_cxx()
    except KernelBuildError as error:
        if not options.if_possible:
            raise SystemExit(str(error)) from None
        print(f"CPU kernels: not built. {error}")
        return ROOT
    work = ROOT / "_build"
    work.mkdir(exist_ok=True)
    try:
        variant = build_variant(
            ROOT,
            options.output or (work / "sanitized" if options.sanitize else ROOT / "build"),
            backend="cpu",
            compiler=compiler,
            archs=[],
            work=work,
            log=work / "build-cpu.log",
            jobs=options.jobs,
            identity=options.id,
            extra=SANITIZERS if options.sanitize else [],
            done=report,
        )
    except KernelBuildError as error:
        raise SystemExit("\n".join([*error.tail, str(error)])) from None
    print(variant)
    return variant


if __name__ == "__main__":
    main()
