# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The only files that change transformers' state, and those that turn a user's call into a cache."""
