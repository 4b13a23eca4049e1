"""
The only module that breaks the wire to an object store: a relay on loopback that carries requests on, but for its faults.

A `Fault` says which requests it meets and how often; what it does not meet goes to the real server unchanged, with the
Host header as signed, so that the signatures stay valid.
"""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.servers import S3Server

_HOP = {"connection", "transfer-encoding", "keep-alive"}


@define
class Fault:
    """
    What happens to requests with *method* whose path and headers contain *having*, *times* times.

    ``answer``: *status* with *body* and *headers*, and the server never hears of the request. ``cut``: the answer breaks
    off after *after* bytes of its body. ``stall``: likewise, but the connection stays open and silent. ``lose``: the
    server does what it is asked, and its answer is lost. ``hold``: the server hears of the request once `Relay.released`.
    """

    kind: Literal["answer", "cut", "stall", "lose", "hold"]
    method: str
    having: str = ""
    times: int = 1
    status: int = 503
    body: bytes = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
    headers: dict[str, str] = field(factory=dict)
    after: int = 0


class Relay:
    """A relay to the server on *port*; give it `faults`, read what it saw in `seen` (method and path)."""

    def __init__(self, port: int) -> None:
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.released = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"relay": self, "upstream": port})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def count(self, method: str, having: str = "") -> int:
        """How many requests with *method* and *having* in their path were seen."""
        return sum(each == method and having in path for each, path in self.seen)

    def meet(self, method: str, path: str, headers: str) -> Fault | None:
        """The fault for this request, used up by one; None when it is to be carried on."""
        with self._lock:
            self.seen.append((method, path))
            for fault in self.faults:
                if fault.times and fault.method == method and fault.having in f"{path}\n{headers}":
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    relay: ClassVar[Relay]
    upstream: ClassVar[int]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        """Say nothing."""

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.relay.meet(self.command, self.path, str(self.headers))
        if fault is not None and fault.kind == "answer":
            self._send(fault.status, {**fault.headers, "Content-Length": str(len(fault.body))}, fault.body)
            return
        if fault is not None and fault.kind == "hold":
            self.relay.released.wait(60)
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body=body or None, headers=dict(self.headers.items()))
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            content = answer.read()
        finally:
            connection.close()
        if fault is not None and fault.kind == "lose":
            self._drop()
        elif fault is not None and fault.kind in {"cut", "stall"}:
            self._send(answer.status, kept, content[: fault.after])
            if fault.kind == "stall":
                self.relay.released.wait(60)
            self._drop()
        else:
            if self.command != "HEAD":
                kept["Content-Length"] = str(len(content))
            self._send(answer.status, kept, content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _relay  # noqa: N815  # the base class looks for these

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def relaying(port: int) -> Iterator[Relay]:
    """Yield a relay to the server on *port*; stalled answers are let go at the end."""
    relay = Relay(port)
    thread = threading.Thread(target=relay.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield relay
    finally:
        relay.released.set()
        relay.server.shutdown()
        thread.join()
        relay.server.server_close()


@pytest.fixture
def relay(seaweedfs_server: S3Server) -> Iterator[Relay]:
    """The real server, seen through a relay."""
    with relaying(seaweedfs_server.port) as relay:
        yield relay
