"""The only module that stands between a command and an engine: a relay on a socket of its own that can stall or cut an archive."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Wire:
    """
    A relay at *host* to the engine's socket *target*.

    Of the answer to a request that has *having* in it, *after* bytes are passed on; then the connection is silent (``stall``)
    or closed (``cut``), and `reached` is set. With no *kind* all is passed on. `seen` has the first line of every request.
    """

    def __init__(self, target: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        # Not below the folder of the test, whose path may be longer than the address of a socket can be.
        self._link = f"{tempfile.mkdtemp(prefix='wire-')}/s"
        self._socket.bind(self._link)
        self._socket.listen()
        self.host = f"unix://{self._link}"
        self.seen: list[str] = []
        self.reached = threading.Event()
        self.kind: Literal["", "stall", "cut"] = ""
        self.having = b"/archive?"
        self.after = 0
        self._target = target
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        for each in [self._socket, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        shutil.rmtree(self._link.removesuffix("/s"))

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._open += [near, far]
                meets = threading.Event()
                threading.Thread(target=self._ask, args=(near, far, meets), daemon=True).start()
                threading.Thread(target=self._answer, args=(near, far, meets), daemon=True).start()

    def _ask(self, near: socket.socket, far: socket.socket, meets: threading.Event) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                if b" HTTP/1.1\r\n" in data:
                    self.seen.append(data.partition(b"\r\n")[0].decode())
                if self.kind and self.having in data:
                    meets.set()
                far.sendall(data)
            far.close()

    def _answer(self, near: socket.socket, far: socket.socket, meets: threading.Event) -> None:
        left = self.after
        with suppress(OSError):
            while data := far.recv(65536):
                if not meets.is_set():
                    near.sendall(data)
                    continue
                near.sendall(data[:left])
                left -= len(data[:left])
                if not left:
                    self.reached.set()
                    if self.kind == "cut":
                        near.shutdown(socket.SHUT_RDWR)
                    return
            near.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire(host: str) -> Iterator[Wire]:
    """A relay to the engine at *host* (``unix://...``) while the block runs."""
    relay = Wire(host.removeprefix("unix://"))
    try:
        yield relay
    finally:
        relay.close()


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """The address of somebody who gives every request this *answer*, whole as it stands; None: who accepts, and says nothing."""
    kept: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                kept.append(near)
                if answer is not None:
                    near.recv(65536)
                    near.sendall(answer)
                    near.shutdown(socket.SHUT_WR)

    with tempfile.TemporaryDirectory(prefix="wire-") as folder, socket.socket(socket.AF_UNIX) as server:
        path = f"{folder}/s"
        server.bind(path)
        server.listen()
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for each in kept:
                each.close()
