# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Sharing on the Hugging Face Hub: the functions to call. push.py and download.py own them."""

from .download import download_codebook, download_config
from .errors import CodebookHubError
from .push import push_codebook, push_config


__all__ = ["CodebookHubError", "download_codebook", "download_config", "push_codebook", "push_config"]
