# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Studies of the method: what each step brings, other quantizers, retrieval, few-shot tasks. README.md: results."""
