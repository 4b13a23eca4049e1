"""The only module that runs Hubs in processes of their own, so that serving costs the clients nothing but cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, evolve, field, frozen

from benchmarks.apart import Apart
from ci_modelcache.demo.exchange import Fault
from ci_modelcache.demo.faults import Spoiling
from ci_modelcache.demo.hub import LoopbackHub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from ci_modelcache.demo.exchange import Reply, Request

REPO = "acme/model"

Plan = tuple[Callable[[], Fault], ...]
"""What goes wrong at one Hub, the outermost first; made anew for every run, as faults count how often they struck."""


@frozen
class Tally:
    """What a Hub did since `FarHub.begin`: bytes of files, requests, seconds of CPU; times are those of `time.monotonic`."""

    sent: int
    requests: int
    cpu: float
    dropped: float | None
    """When the first connection had `Watched.after` bytes of a body."""
    last: float | None
    """When the last byte of a file was handed to the network."""


class FarHub(Apart):
    """A `LoopbackHub` in another process that serves the files of *folder* as `REPO`, and goes wrong by *plan*."""

    def __init__(self, folder: Path, plan: Plan, *, watched_after: int = 0) -> None:
        super().__init__(_serve, folder, plan, watched_after)
        self.url: str = self.at

    @property
    def tally(self) -> Tally:
        """What it did since `begin`, which also makes its plan anew: nothing of it has happened then."""
        told: Tally = self.ask("tally")
        return told


@define(eq=False)
class Watched(Spoiling):
    """No fault: it notes when bytes of files are sent, and when the first connection has sent *after* of them."""

    after: int = 0
    dropped: float | None = field(default=None, init=False)
    last: float | None = field(default=None, init=False)

    def spoil(self, reply: Reply, request: Request) -> Reply:  # noqa: ARG002  # the protocol's arguments
        return evolve(reply, body=lambda: self._noting(reply))

    def _noting(self, reply: Reply) -> Iterator[bytes]:
        sent = 0
        for piece in reply.body():
            yield piece
            sent += len(piece)
            self.last = time.monotonic()
            if self.dropped is None and sent >= self.after:
                self.dropped = self.last


def _serve(pipe: Connection, folder: Path, plan: Plan, watched_after: int) -> None:
    """Serve until the other end of *pipe* is closed."""
    with LoopbackHub() as hub:
        hub.add_repo(REPO, {"main": folder})
        watched, began = Watched(watched_after), 0.0
        pipe.send(hub.url)
        while True:
            try:
                asked = pipe.recv()
            except EOFError:
                return
            if asked == "begin":
                watched, began = Watched(watched_after), time.process_time()
                hub.faults[:] = [watched, *(make() for make in plan)]
                hub.forget()
                pipe.send(None)
                continue
            cpu = time.process_time() - began
            pipe.send(Tally(hub.sent, len(hub.requests()), cpu, watched.dropped, watched.last))
