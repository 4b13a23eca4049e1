"""
The only module that makes a network worse: a relay that adds latency, and a network namespace behind a link of 1 Gb/s.

Both cost a copy of each byte in a process of their own, for us and for peers alike.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from attrs import frozen

from benchmarks.apart import Apart

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

_PIECE = 1 << 18
HERE = "127.0.0.1"
RATE = "1gbit"


@frozen
class Latency:
    """
    What lies between a client and a server: *delay* seconds for a round trip, and *window* bytes that may be on their way.

    One connection gets *window* bytes per *delay*, as TCP gives it on a long way. 0: nothing is held back.
    """

    delay: float = 0.0
    window: int = 1 << 20


class PathRelay(Apart):
    """Carries what comes to a free port of *host* on to *target* of loopback, with *latency*."""

    def __init__(self, target: int, latency: Latency, *, host: str = HERE) -> None:
        super().__init__(_serve, target, latency, host)
        self.port: int = self.at


def _serve(pipe: Connection, target: int, latency: Latency, host: str) -> None:
    with socket.create_server((host, 0), backlog=256) as server:
        pipe.send(server.getsockname()[1])
        threading.Thread(target=_accept, args=(server, target, latency), daemon=True).start()
        # Nothing is ever asked; the end of the pipe is the end.
        with suppress(EOFError):
            pipe.recv()


def _accept(server: socket.socket, target: int, latency: Latency) -> None:
    while True:
        here, _ = server.accept()
        threading.Thread(target=_connect, args=(here, target, latency), daemon=True).start()


def _connect(here: socket.socket, target: int, latency: Latency) -> None:
    # A connection is made in one round trip.
    time.sleep(latency.delay)
    beyond = socket.create_connection((HERE, target))
    for each in (here, beyond):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_carry, args=(here, beyond), daemon=True).start()
    if latency.delay:
        _carry_late(beyond, here, latency)
    else:
        _carry(beyond, here)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    piece = memoryview(bytearray(_PIECE))
    with suppress(OSError):
        while count := source.recv_into(piece):
            sink.sendall(piece[:count])
    # An end in one direction is told on; a client may still read the answer.
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _carry_late(source: socket.socket, sink: socket.socket, latency: Latency) -> None:
    """The same for answers, each byte *latency.delay* later, and never more than *latency.window* of them on their way."""
    flying: deque[tuple[float, bytes]] = deque()
    room, changed, held = latency.window, threading.Condition(), [0]
    sender = threading.Thread(target=_deliver, args=(flying, (source, sink), changed, held), daemon=True)
    sender.start()
    with suppress(OSError):
        while True:
            with changed:
                while held[0] >= room:
                    changed.wait()
                free = room - held[0]
            piece = source.recv(min(_PIECE, free))
            with changed:
                held[0] += len(piece)
                flying.append((time.monotonic() + latency.delay, piece))
                changed.notify_all()
            if not piece:
                break
    sender.join()
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _deliver(
    flying: deque[tuple[float, bytes]],
    ends: tuple[socket.socket, socket.socket],
    changed: threading.Condition,
    held: list[int],
) -> None:
    source, sink = ends
    with suppress(OSError):
        while True:
            with changed:
                while not flying:
                    changed.wait()
                due, piece = flying.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            if not piece:
                return
            sink.sendall(piece)
            with changed:
                held[0] -= len(piece)
                changed.notify_all()
    # The client is gone: who reads for it is neither to go on nor to wait for room.
    with suppress(OSError):
        source.shutdown(socket.SHUT_RDWR)
    with changed:
        held[0] = 0
        changed.notify_all()


@frozen
class Link:
    """A network namespace, and the address of this side as it is seen from there."""

    namespace: str
    host: str

    @property
    def within(self) -> tuple[str, ...]:
        """What comes before a command that is to run there."""
        return (_program("ip"), "netns", "exec", self.namespace)


@contextmanager
def slow_link(rate: str = RATE) -> Iterator[Link]:
    """A namespace that reaches this side, and nothing else, at *rate* both ways; needs root and iproute2."""
    number = os.getpid() % 64
    name, near, far = f"bench-{os.getpid()}", f"bench{number}n", f"bench{number}f"
    net = f"10.213.{number}"
    limit = ("root", "tbf", "rate", rate, "burst", "1mb", "latency", "50ms")
    as_root("ip", "netns", "add", name)
    try:
        as_root("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        as_root("ip", "addr", "add", f"{net}.1/30", "dev", near)
        as_root("ip", "link", "set", near, "up")
        as_root("ip", "-n", name, "addr", "add", f"{net}.2/30", "dev", far)
        as_root("ip", "-n", name, "link", "set", far, "up")
        as_root("ip", "-n", name, "link", "set", "lo", "up")
        as_root("tc", "qdisc", "add", "dev", near, *limit)
        as_root("ip", "netns", "exec", name, _program("tc"), "qdisc", "add", "dev", far, *limit)
        yield Link(name, f"{net}.1")
    finally:
        # The pair of devices goes with it.
        as_root("ip", "netns", "del", name)


def _program(name: str) -> str:
    """Where *name* lies, also when the PATH leaves out the programs of root."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    return shutil.which(name, path=path) or name


def as_root(*command: str) -> None:
    """Change what belongs to the whole machine; raises RuntimeError when that is refused."""
    try:
        subprocess.run([_program(command[0]), *command[1:]], capture_output=True, text=True, check=True)  # noqa: S603  # fixed lines of ours
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        msg = f"{' '.join(command)}: {why} (this needs root, iproute2 and mount)"
        raise RuntimeError(msg) from error
