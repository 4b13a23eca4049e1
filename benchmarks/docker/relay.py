"""The only module that counts bytes on the wire: a relay in a process of its own, before a server on a port or a Unix socket."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import frozen

from benchmarks.apart import Apart

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_PIECE = 1 << 20

Address = tuple[str, int] | str
"""A host and a port, or the path of a socket."""


@frozen
class Carried:
    """Bytes that went *to* the server and came *back*, and how many connections there were."""

    to: int
    back: int
    connections: int


class CountingRelay(Apart):
    """Carries whatever comes at *listen* on to *target*, both ways; it costs a copy of each byte."""

    def __init__(self, target: Address, listen: Address = ("127.0.0.1", 0)) -> None:
        super().__init__(_serve, target, listen)
        self.address: Address = self.at

    @property
    def port(self) -> int:
        """Where it listens on loopback."""
        assert not isinstance(self.address, str)  # noqa: S101  # who asks knows
        return self.address[1]

    @property
    def carried(self) -> Carried:
        """What was carried since `begin`."""
        told: Carried = self.ask("carried")
        return told


class _Counts:
    def __init__(self) -> None:
        self.bytes = [0, 0]
        self.connections = 0
        self.lock = threading.Lock()


def _serve(pipe: Connection, target: Address, listen: Address) -> None:
    counts = _Counts()
    server = _socket(listen)
    server.bind(listen)
    server.listen(128)
    pipe.send(listen if isinstance(listen, str) else server.getsockname())
    threading.Thread(target=_accept, args=(server, target, counts), daemon=True).start()
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        with counts.lock:
            told = Carried(counts.bytes[0], counts.bytes[1], counts.connections)
            if asked == "begin":
                counts.bytes, counts.connections = [0, 0], 0
        pipe.send(told)


def _accept(server: socket.socket, target: Address, counts: _Counts) -> None:
    while True:
        here, _ = server.accept()
        beyond = _socket(target)
        beyond.connect(target)
        with counts.lock:
            counts.connections += 1
        for way, (source, sink) in enumerate(((here, beyond), (beyond, here))):
            threading.Thread(target=_carry, args=(source, sink, counts, way), daemon=True).start()


def _socket(address: Address) -> socket.socket:
    return socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET, socket.SOCK_STREAM)


def _carry(source: socket.socket, sink: socket.socket, counts: _Counts, way: int) -> None:
    piece = memoryview(bytearray(_PIECE))
    with suppress(OSError):
        while count := source.recv_into(piece):
            sink.sendall(piece[:count])
            with counts.lock:
                counts.bytes[way] += count
    # An end in one direction is told on; a client may still read the answer.
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
