# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The version of the package: the one place that states it (the build reads it here). Owns nothing else."""

__version__ = "0.1.0"
