"""The faults of the demonstration, and what every planned fault has in common: when, and how often."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from attrs import define, evolve, field

from ci_modelcache.demo.exchange import CutOff, Reply, Request, Respond, error

When = Callable[[Request], bool]


def always(_request: Request) -> bool:
    """Every request."""
    return True


def files(request: Request) -> bool:
    """GETs of content, from the Hub or its CDN."""
    return request.is_file and request.method == "GET"


def api(request: Request) -> bool:
    """Everything that the API is asked."""
    return request.is_api


def naming(part: str) -> When:
    """Requests with *part* in their target."""
    return lambda request: part in request.target


@define(eq=False)
class Planned(ABC):
    """A fault for the first *times* requests (None: for all) of which *when* is true."""

    when: When = field(default=files, kw_only=True)
    times: int | None = field(default=None, kw_only=True)
    happened: int = field(default=0, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def __call__(self, request: Request, respond: Respond, /) -> Reply:
        return self.act(request, respond) if self._due(request) else respond(request)

    def _due(self, request: Request) -> bool:
        if not self.when(request):
            return False
        with self._lock:
            if self.times is not None and self.happened >= self.times:
                return False
            self.happened += 1
            return True

    @abstractmethod
    def act(self, request: Request, respond: Respond) -> Reply:
        """Go wrong."""


@define(eq=False)
class TooManyRequests(Planned):
    """429, as a shared address gets it from the Hub; *retry_after* as it is sent, None to leave it out."""

    retry_after: str | None = "1"

    def act(self, request: Request, respond: Respond) -> Reply:  # noqa: ARG002  # the protocol's arguments
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        return error(429, None, "We had to rate limit you", headers)


class Spoiling(Planned):
    """A fault of content: redirects and errors on the way to it neither suffer from it nor count."""

    def __call__(self, request: Request, respond: Respond, /) -> Reply:
        if not self.when(request):
            return respond(request)
        reply = respond(request)
        return self.spoil(reply, request) if reply.file is not None and self._due(request) else reply

    def act(self, request: Request, respond: Respond) -> Reply:
        return self.spoil(respond(request), request)

    @abstractmethod
    def spoil(self, reply: Reply, request: Request) -> Reply:
        """Make *reply*, which sends content, go wrong."""


@define(eq=False)
class Cut(Spoiling):
    """
    The connection ends after *after* bytes of the body, with a FIN or, with *reset*, a RST.

    A RST overtakes and discards what was sent; a *pause* in seconds before it lets that arrive.
    """

    after: int = 0
    reset: bool = False
    pause: float = 0.0

    def spoil(self, reply: Reply, request: Request) -> Reply:
        return evolve(reply, body=lambda: self._cutting(reply, request))

    def _cutting(self, reply: Reply, request: Request) -> Iterator[bytes]:
        left = self.after
        for piece in reply.body():
            if left > 0:
                yield piece[:left]
            left -= len(piece)
            if left <= 0:
                break
        request.stopping.wait(self.pause)
        raise CutOff(reset=self.reset)


@define(eq=False)
class WrongBit(Spoiling):
    """One bit of the byte at offset *at* of the file is wrong, as on a disk that decays; sizes and headers are right."""

    at: int = 0

    def spoil(self, reply: Reply, request: Request) -> Reply:  # noqa: ARG002  # the protocol's arguments
        return evolve(reply, body=lambda: self._decayed(reply))

    def _decayed(self, reply: Reply) -> Iterator[bytes]:
        offset = reply.start
        for piece in reply.body():
            place = self.at - offset
            offset += len(piece)
            if 0 <= place < len(piece):
                yield piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]
            else:
                yield piece
