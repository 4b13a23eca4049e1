"""A real HTTP proxy on loopback: it forwards plain HTTP, tunnels CONNECT, and can want a password."""

from __future__ import annotations

import base64
import http.client
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit


class LoopbackProxy:
    """
    A proxy while the ``with`` block runs. *asked* lists what it was asked to do; *user* is ``name:password``.

    With *refusing* set it answers everything with that status.
    """

    def __init__(self, *, user: str | None = None, refusing: int | None = None) -> None:
        self.user = user
        self.refusing = refusing
        self.asked: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"http://{user}127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    proxy: LoopbackProxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    server: _Server

    def do_CONNECT(self) -> None:
        if not self._allowed():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as beyond:
            self.send_response(200)
            self.end_headers()
            self._tunnel(beyond)
        self.close_connection = True

    def _tunnel(self, beyond: socket.socket) -> None:
        ends = {self.connection: beyond, beyond: self.connection}
        while True:
            ready, _, _ = select.select(list(ends), [], [], 5)
            for end in ready:
                data = end.recv(65536)
                if not data:
                    return
                ends[end].sendall(data)
            if not ready:
                return

    def do_GET(self) -> None:
        if not self._allowed():
            return
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection(parts.netloc, timeout=5)
        headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        connection.request("GET", self.path.removeprefix(f"http://{parts.netloc}"), headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _allowed(self) -> bool:
        proxy = self.server.proxy
        proxy.asked.append(f"{self.command} {self.path}")
        given = self.headers.get("Proxy-Authorization", "").removeprefix("Basic ")
        refusal = proxy.refusing
        if proxy.user is not None and base64.b64decode(given).decode() != proxy.user:
            refusal = 407
        if refusal is None:
            return True
        self.send_response(refusal)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        return False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Say nothing."""
