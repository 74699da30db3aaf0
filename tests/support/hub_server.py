# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face Hub on 127.0.0.1, so that unmodified huggingface_hub and kernels clients push to and pull from it.

Owns the HTTP machinery and the faults a test can order (`HubServer.fault`); hub_endpoints.py owns the addresses and
hub_store.py the state and the rules.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_endpoints import ROUTES, Endpoints
from hub_store import HubError, HubStore


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose "METHOD /path" matches `match`."""

    match: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] | None = None
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    reset: bool = False  # close it with a TCP reset, as a crashing proxy does, instead of in order
    wait: float = 0.0  # seconds before the answer
    rewrite: Callable[[bytes], bytes] | None = None  # of the body
    hits: int = 0


class HubServer:
    """A running Hub: `url`, `store`, `requests` (method, path, status) and ordered `faults`.

    Answers are the Hub's own in form: ids, error codes, redirects of large files to a second path, ranges.
    """

    def __init__(self):
        self.store = HubStore()
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        # Large files come from another host, as with the Hub, so that clients must not send it their token.
        self.cdn_url = self.url.replace("127.0.0.1", "localhost")
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fault(self, match: str, **what) -> Fault:
        """Order a fault; returns it, so that a test can see by `hits` that it happened."""
        self.faults.append(Fault(match, **what))
        return self.faults[-1]

    def paths(self, method: str = "") -> list[str]:
        return [path for verb, path, _ in self.requests if verb.startswith(method)]

    def merge(self, repo_id: str, number: int, author: str = "owner") -> str:
        """Merge a pull request as its owner would on the web page; returns the new commit."""
        with self.store.lock:
            return self.store.repositories["model", repo_id].merge(number, author)

    def take_fault(self, line: str) -> Fault | None:
        with self.store.lock:
            for fault in self.faults:
                if fault.hits < fault.times and re.search(fault.match, line):
                    fault.hits += 1
                    return fault
        return None


class _Handler(Endpoints, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet; else each answer waits 40 ms for the client's delayed acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    hub: HubServer

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *args):
        pass

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        fault = self.hub.take_fault(f"{self.command} {self.path}")
        if fault is not None:
            time.sleep(fault.wait)
        try:
            if fault is not None and fault.status is not None:
                raise HubError(fault.status, f"ordered fault {fault.status}")
            status, headers, body = self._dispatch("GET" if self.command == "HEAD" else self.command, parts.path)
        except HubError as error:
            status, body = error.status, json.dumps({"error": error.message, **error.more}).encode()
            headers = {"Content-Type": "application/json", "X-Error-Message": error.message}
            headers |= {"X-Error-Code": error.code} if error.code else {}
        if fault is not None:
            headers |= fault.headers or {}
            body = fault.rewrite(body) if fault.rewrite is not None else body
        self.hub.requests.append((self.command, self.path, status))
        # A client that was killed, or has seen enough, is not there for the answer.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send(status, headers, body, fault)

    def _send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut_after = None if fault is None else fault.cut_after
        self.wfile.write(body[:cut_after])
        self.wfile.flush()
        if cut_after is not None:
            if fault.reset:
                time.sleep(0.05)  # let the bytes leave before the reset discards them
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD if fault.reset else socket.SHUT_RDWR)
            self.connection.close()
            self.close_connection = True

    def _dispatch(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        for verb, pattern, name in ROUTES:
            match = pattern.fullmatch(path)
            if verb == method and match is not None:
                named = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                if "rev" not in named and "rev" in pattern.groupindex:
                    named["rev"] = "main"
                with self.hub.store.lock:
                    answer = getattr(self, name)(**named)
                if isinstance(answer, tuple):
                    return answer
                return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
        raise HubError(404, f"No such endpoint: {method} {path}")
