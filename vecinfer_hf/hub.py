# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Sharing on the Hugging Face Hub: the functions to call. hub_push.py and hub_download.py own them."""

from .hub_download import download_codebook, download_config
from .hub_errors import CodebookHubError
from .hub_push import push_codebook, push_config


__all__ = ["CodebookHubError", "download_codebook", "download_config", "push_codebook", "push_config"]
