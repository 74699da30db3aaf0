# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m vecinfer_hf` is the command `vecinfer`."""

from .cli.app import main


main()
