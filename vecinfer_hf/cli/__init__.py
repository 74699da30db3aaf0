# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The sub-commands of `vecinfer`, one module each. They parse and print; the work is done by the package's modules."""
