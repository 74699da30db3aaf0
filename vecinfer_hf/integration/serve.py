# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""transformers' own server with models that use codes: what is replaced in it while `vecinfer serve` runs.

Owns the enabling of each model that the server loads, what `/health` says of the cache, and the answer to a request
that the cache refuses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

from ..codebook.codebook import Codebook
from ..errors import VecInferError
from .enable import enable


logger = logging.get_logger(__name__)


@contextmanager
def coded_server(codebook: Codebook | str, options: dict[str, Any], page_tokens: int | None) -> Iterator[None]:
    """Let transformers' `Serve`, made within the block, use codes.

    Args:
        codebook: the codebook of its models.
        options: fields of a VecInferConfig.
        page_tokens: tokens of a page where the line that started the server gives none; None to leave them.

    Raises:
        ImportError: if what the server needs is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
        from transformers.cli.serving import model_manager, server
    except ImportError as error:
        raise ImportError(
            f"The server needs packages that are not installed ({error}); pip install 'vecinfer-hf[serve]'."
        ) from error
    manager_class, build_server = model_manager.ModelManager, server.build_server
    model_manager.ModelManager = _enabling(manager_class, codebook, options)
    server.build_server = _telling(build_server, page_tokens)
    try:
        yield
    finally:
        model_manager.ModelManager, server.build_server = manager_class, build_server


def _enabling(manager_class: type, codebook: Codebook | str, options: dict[str, Any]) -> type:
    """Return transformers' ModelManager, enabling every model that it loads."""

    class CodedModelManager(manager_class):
        def _load_model(self, *args: Any, **kwargs: Any):
            return enable(super()._load_model(*args, **kwargs), codebook, **options)

    return CodedModelManager


def _telling(build_server: Callable, page_tokens: int | None) -> Callable:
    """Return transformers' `build_server` with our `/health` and an answer to what the cache refuses."""

    def build(model_manager: Any, *args: Any, generation_state: Any, **kwargs: Any):
        from fastapi.responses import JSONResponse

        if page_tokens is not None and generation_state._cb_config is not None:
            generation_state._cb_config.page_size = page_tokens
        app = build_server(model_manager, *args, generation_state=generation_state, **kwargs)
        route = next(each for each in app.router.routes if getattr(each, "path", None) == "/health")
        app.router.routes.remove(route)

        @app.get("/health")
        def health():
            response = route.endpoint()
            told = {**json.loads(response.body), "cache": cache_state(model_manager, generation_state)}
            return JSONResponse(told, status_code=response.status_code)

        @app.exception_handler(VecInferError)
        async def refused(_request, error: VecInferError):
            return JSONResponse(
                {"error": {"message": str(error), "type": "invalid_request_error", "code": type(error).__name__}},
                status_code=400,
            )

        logger.info(f"vecinfer: cache {cache_state(model_manager, generation_state)}")
        return app

    return build


def cache_state(model_manager: Any, generation_state: Any) -> dict[str, Any]:
    """Return which cache a server uses and, once it batches, its pages.

    Args:
        model_manager: transformers' ModelManager.
        generation_state: transformers' GenerationState.
    """
    from .request import enabled_state

    states = [enabled_state(timed.model) for timed in list(model_manager.loaded_models.values())]
    codebooks = [state.codebook for state in states if state is not None]
    told: dict[str, Any] = {
        "kind": "vecinfer" if codebooks else "default",
        "codebook": [repr(codebook) for codebook in codebooks],
        "batching": "continuous" if generation_state._continuous_batching else "one request at a time",
    }
    held = generation_state._cb_manager
    manager = None if held is None else held._cb
    if hasattr(manager, "state"):
        told |= manager.state()
    return told
