# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Write instantiations/*.cu: one file per variant of the decode kernel, and the table that finds them.

    python vecinfer_cuda/generate_instantiations.py            # write
    python vecinfer_cuda/generate_instantiations.py --check    # fail if a committed file differs

Owns the choice of variants. Prints the files for build.toml.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path


FOLDER = Path(__file__).resolve().parent / "instantiations"
BANNER = """// SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
// SPDX-License-Identifier: Apache-2.0
// Written by generate_instantiations.py.
"""
FORMATS = {"d4b8": "D4B8", "d4b8x2": "D4B8x2", "d8b8": "D8B8"}
# The middle size takes every pair; the others take equal formats only, which keeps the library small.
PAIRS = {
    64: [(name, name) for name in FORMATS],
    128: list(product(FORMATS, FORMATS)),
    256: [(name, name) for name in FORMATS],
}
# Two tables of byte codes fit 99 KB of shared memory, four do not.
PORTABLE_PAIRS = [pair for pair in product(FORMATS, FORMATS) if "d4b8x2" not in pair]


@dataclass(frozen=True)
class Variant:
    """One compiled pair of formats for one target and head size."""

    target: str
    head_dim: int
    key: str
    value: str

    @property
    def row_tiles(self) -> list[int]:
        """Row tiles of 4 queries; registers for accumulators and queries bound them."""
        if self.target == "portable":
            return [1] if self.head_dim > 128 else [1, 2]
        return [1, 2] if self.head_dim > 128 else [1, 2, 4]

    @property
    def stem(self) -> str:
        """Name of the file and of the function in it."""
        return f"decode_{self.target}_{self.head_dim}_{self.key}_{self.value}"

    def source(self) -> str:
        """Text of the file."""
        cases = "".join(
            f"  {f'if (rows <= {4 * tiles}) ' if tiles != self.row_tiles[-1] else ''}"
            f"return decode_variant<DecodeTraits<{self.head_dim}, {FORMATS[self.key]}, {FORMATS[self.value]}, "
            f"{tiles}, Target::k{self.target.capitalize()}>>();\n"
            for tiles in self.row_tiles
        )
        return (
            f'{BANNER}#include "decode_variant.cuh"\n\nnamespace vecinfer {{\n\n'
            f"DecodeKernel {self.stem}(int rows) {{\n{cases}}}\n\n}}  // namespace vecinfer\n"
        )


def variants() -> list[Variant]:
    """Return all variants."""
    hopper = [Variant("hopper", size, *pair) for size, pairs in PAIRS.items() for pair in pairs]
    portable = [
        Variant("portable", size, *pair) for size, pairs in PAIRS.items() for pair in pairs if pair in PORTABLE_PAIRS
    ]
    return hopper + portable


def table(found: list[Variant]) -> str:
    """Text of the table."""
    declarations = "".join(f"DecodeKernel {variant.stem}(int rows);\n" for variant in found)
    entries = "".join(
        f"    {{{str(v.target == 'hopper').lower()}, {v.head_dim}, {FORMATS[v.key]}::kFormat, "
        f"{FORMATS[v.value]}::kFormat, {v.stem}}},\n"
        for v in found
    )
    return f"""{BANNER}#include "../decode/traits.cuh"
#include "../decode/variants.h"

namespace vecinfer {{

{declarations}
namespace {{

struct Entry {{
  bool hopper;
  int head_dim;
  CodeFormat key;
  CodeFormat value;
  DecodeKernel (*find)(int rows);
}};

constexpr Entry kEntries[] = {{
{entries}}};

}}  // namespace

DecodeKernel fast_decode_kernel(bool hopper, int head_dim, const CodeFormat& key,
                                const CodeFormat& value, int rows) {{
  for (const Entry& entry : kEntries) {{
    if (entry.hopper == hopper && entry.head_dim == head_dim && entry.key == key &&
        entry.value == value) {{
      return entry.find(rows);
    }}
  }}
  return {{}};
}}

}}  // namespace vecinfer
"""


def main() -> int:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a file differs")
    options = parser.parse_args()
    found = variants()
    files = {FOLDER / f"{variant.stem}.cu": variant.source() for variant in found}
    files[FOLDER / "decode_table.cu"] = table(found)
    stale = [path for path in FOLDER.glob("decode_[hp]*_*.cu") if path not in files]
    different = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if options.check:
        for path in stale + different:
            print(f"{path.name} differs: run generate_instantiations.py", file=sys.stderr)
        return int(bool(stale or different))
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        path.unlink()
    for path in different:
        path.write_text(files[path])
    for path in sorted(files):
        print(f'  "vecinfer_cuda/instantiations/{path.name}",')
    return 0


if __name__ == "__main__":
    sys.exit(main())
