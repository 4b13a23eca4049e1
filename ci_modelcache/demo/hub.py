"""
A small Hub on loopback: the standard library's HTTP server around `Routes`.

It exists so that the tool can be tried, demonstrated and tested without the Hub, by any client of it:
`huggingface_hub` downloads from it unmodified. It is no server for anybody else: it binds 127.0.0.1 only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from attrs import define

from ci_modelcache.demo.exchange import CDN, HUB, CutOff, Fault, Headers, Reply, Request, Respond
from ci_modelcache.demo.repository import Files, Repository
from ci_modelcache.demo.routes import Routes
from ci_modelcache.model.ref import RepoType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

_LOOPBACK = "127.0.0.1"
_CDN_NAME = "localhost"
"""Another host name for the same address: clients that compare names take it for another host, as a CDN is."""
_IDLE_SECONDS = 120


@define
class Seen:
    """One request that was answered, for callers who count; *sent* are bytes of body handed to the network."""

    server: str
    method: str
    target: str
    status: int
    authorized: bool
    """Whether it carried an Authorization header."""
    range: str | None
    sent: int = 0


class LoopbackHub:
    """
    A Hub while the ``with`` block runs; several can run side by side.

    *cdn* sends LFS files through a redirect to another host name, as the real Hub does. *tokens* are
    token to user name. *faults* see every request, the first one outermost, and may be changed at any time.
    *tls* serves https (the CDN too).
    """

    def __init__(
        self,
        *,
        cdn: bool = True,
        resolve_cache: bool = False,
        page_size: int = 1000,
        prefix: str = "",
        tokens: Mapping[str, str] | None = None,
        faults: Iterable[Fault] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.faults: list[Fault] = list(faults)
        self._scheme = "http" if tls is None else "https"
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._servers = {name: _Server(name, self, tls) for name in ((HUB, CDN) if cdn else (HUB,))}
        self._routes = Routes(
            url=f"{self._address(_LOOPBACK, HUB)}{prefix}",
            prefix=prefix,
            cdn_url=self._address(_CDN_NAME, CDN) if cdn else None,
            resolve_cache=resolve_cache,
            page_size=page_size,
            tokens=dict(tokens or {}),
        )

    def _address(self, host: str, server: str) -> str:
        return f"{self._scheme}://{host}:{self._servers[server].server_address[1]}"

    @property
    def url(self) -> str:
        """What a client sets as HF_ENDPOINT."""
        return self._routes.url

    def __enter__(self) -> Self:
        for server in self._servers.values():
            server.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        for server in self._servers.values():
            server.stop()

    def add_repo(
        self,
        name: str,
        revisions: Mapping[str, Files],
        *,
        type: RepoType = RepoType.MODEL,  # the Hub's own word
        private: bool = False,
        gated: bool = False,
        readers: Iterable[str] = (),
    ) -> Repository:
        """Serve a repository with one commit for each of *revisions* (branch to files); more by its `commit`."""
        repository = Repository(name, type, private=private, gated=gated, readers=set(readers))
        for branch, files in revisions.items():
            repository.commit(files, branch=branch)
        self._routes.repositories[type, name] = repository
        return repository

    def rename(self, old: str, new: str) -> None:
        """Redirect *old*, as the Hub does for a repository that moved."""
        self._routes.renamed[old] = new

    def requests(self, *, server: str | None = None, method: str | None = None, within: str = "") -> list[Seen]:
        """What was asked so far, of *server*, by *method*, with *within* somewhere in the target."""
        with self._lock:
            seen = list(self._seen)
        return [
            each
            for each in seen
            if server in {None, each.server} and method in {None, each.method} and within in each.target
        ]

    @property
    def sent(self) -> int:
        """Bytes of bodies of files sent so far."""
        contents = (each for each in self.requests() if each.server == CDN or "/resolve" in each.target)
        return sum(each.sent for each in contents if each.status in {200, 206})

    def forget(self) -> None:
        """Count from here."""
        with self._lock:
            self._seen.clear()

    def exchange(self, request: Request) -> tuple[Reply, Seen]:
        """Reply to *request*, with the faults in between, and note it."""
        respond: Respond = self._routes.answer
        for fault in reversed(self.faults):
            respond = _around(fault, respond)
        seen = Seen(
            request.server,
            request.method,
            request.target,
            status=0,
            authorized="Authorization" in request.headers,
            range=request.headers.get("Range"),
        )
        # Noted before anything is sent: a client that has its answer can count on being counted.
        with self._lock:
            self._seen.append(seen)
        reply = respond(request)
        seen.status = reply.status
        return reply, seen

    @property
    def stopping(self) -> threading.Event:
        """Set when the Hub ends: what stalls on purpose waits for it."""
        return self._stopping


def _around(fault: Fault, respond: Respond) -> Respond:
    return lambda request: fault(request, respond)


class _Server(ThreadingHTTPServer):
    """One listening port; its connections are closed when it stops, so that no thread outlives it."""

    # Joined at the end, so that nothing is served, or warned about, after the block.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, name: str, hub: LoopbackHub, tls: ssl.SSLContext | None) -> None:
        super().__init__((_LOOPBACK, 0), _Handler)
        self.name = name
        self.hub = hub
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                # The peer may have closed it already. Not the method of a TLS socket: that one pulls the
                # connection from under the thread that is reading.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        if self._tls is not None:
            # The handshake happens in the connection's own thread: a client that stalls in it stops nobody else.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._open.add(connection)
        return connection, address

    def abandon(self, connection: socket.socket) -> None:
        """Close *connection* at once and without a goodbye, although files made of it are still open."""
        self._open.discard(connection)
        os.close(connection.detach())

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        if isinstance(request, socket.socket):
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away or refuse our certificate are no error here; anything else is shown."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError, ssl.SSLError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # passed on as it came


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _IDLE_SECONDS
    server: _Server

    def do_GET(self) -> None:
        self._exchange()

    def do_HEAD(self) -> None:
        self._exchange()

    def do_POST(self) -> None:
        self._exchange()

    def _exchange(self) -> None:
        hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.server.name, self.command, self.path, Headers(self.headers.items()), body, hub.stopping)
        try:
            reply, seen = hub.exchange(request)
            self._send_head(reply)
            if request.method != "HEAD":
                self._send_body(reply, seen)
        except CutOff as cut:
            self._cut(reset=cut.reset)

    def _send_head(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in reply.headers:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send_body(self, reply: Reply, seen: Seen) -> None:
        for piece in reply.body():
            seen.sent += len(piece)
            self.wfile.write(piece)
        if reply.headers.get("Content-Length") != str(seen.sent):
            # More or less than announced: nobody could tell where the next answer begins.
            self.close_connection = True

    def _cut(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # A linger time of 0 makes the system send RST, which is what a dying machine or a firewall sends.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.abandon(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Say nothing: `LoopbackHub.requests` is the log."""
