# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes or devices that run one model: heads.py owns who has which heads, devices.py where layers are."""
