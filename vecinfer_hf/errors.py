# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The errors of this package: one base class and its kinds. Each message names the value, the rule and the remedy."""


class VecInferError(Exception):
    """Base class of every error that this package raises on purpose."""


class ConfigError(VecInferError, ValueError):
    """An option has a value that breaks its rule, contradicts another one, or is unknown."""


class UnsupportedModelError(VecInferError, ValueError):
    """A model cannot run with a cache of codes, or cannot be calibrated."""


class UnsupportedCallError(VecInferError, ValueError):
    """A call asks for something that the cache cannot do; nothing was stored."""


class UnsupportedMaskError(UnsupportedCallError):
    """An attention mask is not causal attention over the row's own tokens; nothing was stored."""


class CacheStateError(VecInferError, RuntimeError):
    """A forward pass ended midway, so layers hold different tokens; `crop` or `reset` repairs the cache."""


class BackendError(VecInferError, RuntimeError):
    """The operators that were asked for cannot serve this device, dtype or shape."""


class CodebookError(VecInferError, ValueError):
    """A codebook cannot be found, read or used with a model."""


class CodebookHubError(VecInferError, OSError):
    """A codebook could not be moved to or from the Hub."""
