# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m examples.assets [NAME ...]`: write models and texts to ./models, or to $VECINFER_MODELS.

Without names: SmolLM2-135M-Instruct and all texts. What is there already is left as it is.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from . import MODELS, SMOLLM2, TEXTS, model_directory, text_file


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is named and print where it is; exit with status 1 and the reason if something cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = (*MODELS, *TEXTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(known)}")
    names = parser.parse_args(arguments).names or [SMOLLM2, *TEXTS]
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in names:
        try:
            print(model_directory(name) if name in MODELS else text_file(name), flush=True)
        except (OSError, ValueError, RuntimeError) as error:
            sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
