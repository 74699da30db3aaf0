# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Sharing on the Hugging Face Hub: the functions to call. push.py and download.py own them."""

from .download import download_codebook, download_options
from .push import push_codebook, push_options


__all__ = ["download_codebook", "download_options", "push_codebook", "push_options"]
