# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes that run one model together. heads.py owns which key/value heads a process has."""
