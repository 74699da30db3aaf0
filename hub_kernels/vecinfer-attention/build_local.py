# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Build one variant of this kernel in a checkout with a compiler alone: no GPU, no CUDA build of torch, no Nix.

    python build_local.py                     # build/torch-stable-abi211-cu130-x86_64-linux, sm_80 + PTX and sm_90a
    python build_local.py --archs 9.0a        # one architecture, for development

`kernels.get_local_kernel(Path("hub_kernels/vecinfer-attention"))` loads the result on torch 2.11 and newer. Releases
are built with kernel-builder instead, whose containers have an older glibc; build.toml is what both read.
vecinfer_hf/kernel_build does the work, as for `vecinfer kernels build`; objects stay in _build for the next call.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parents[1]))

from vecinfer_hf.errors import KernelBuildError  # noqa: E402
from vecinfer_hf.kernel_build.compilers import PORTABLE_ARCH, Compiler, check_archs, find_nvcc  # noqa: E402
from vecinfer_hf.kernel_build.variant import build_variant  # noqa: E402


DEFAULT_ARCHS = (PORTABLE_ARCH, "9.0a")


def report(unit: str, said: str) -> None:
    """Print a unit that is ready, and what the compiler said about it."""
    print(f"compiled {unit}", flush=True)
    if said.strip():
        print(said, file=sys.stderr)


def main(argv: list[str] | None = None) -> Path:
    """Build and return the variant's directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=list(DEFAULT_ARCHS), help="e.g. 9.0a or 8.0+PTX")
    parser.add_argument("--jobs", type=int, default=2, help="compiler processes (default 2)")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory of the variants")
    parser.add_argument("--nvcc", help="default: NVCC, or the first that is found")
    parser.add_argument("--id", help="name of this build; default is a hash of the sources")
    parser.add_argument("--lineinfo", action="store_true", help="source lines for profilers")
    options = parser.parse_args(argv)
    work = ROOT / "_build"
    work.mkdir(exist_ok=True)
    try:
        check_archs(options.archs)
        compiler: Compiler = find_nvcc(None, options.nvcc)
        variant = build_variant(
            ROOT,
            options.output,
            backend="cuda",
            compiler=compiler,
            archs=options.archs,
            work=work,
            log=work / "build.log",
            jobs=options.jobs,
            identity=options.id,
            extra=["-lineinfo"] if options.lineinfo else [],
            done=report,
        )
    except KernelBuildError as error:
        raise SystemExit("\n".join([*error.tail, str(error)])) from None
    print(variant)
    return variant


if __name__ == "__main__":
    main()
