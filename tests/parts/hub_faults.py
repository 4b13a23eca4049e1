"""
Everything that was seen, or may be expected, to go wrong between a Hub, its mirrors and a client.

Each fault is planned (`when`, `times`) and given to a `LoopbackHub`; several hubs with different plans
can run side by side.
"""

from __future__ import annotations

import random
import re
import threading
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from ci_modelcache.demo.exchange import CutOff, Headers, Reply, Request, Respond, error, plain, redirect
from ci_modelcache.demo.faults import Cut, Planned, Spoiling, TooManyRequests, always, api, files, naming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.demo.repository import StoredFile

__all__ = ["Cut", "TooManyRequests", "always", "api", "files", "naming"]


@define(eq=False)
class Status(Planned):
    """Answers with *status* in place of anything else; *code* goes into ``X-Error-Code``."""

    status: int = 503
    code: str | None = None
    message: str = "out of order"
    headers: dict[str, str] = field(factory=dict)

    def act(self, request: Request, respond: Respond) -> Reply:  # noqa: ARG002  # the protocol's arguments
        return error(self.status, self.code, self.message, self.headers)


@define(eq=False)
class RetryAfterDate(Planned):
    """429 with ``Retry-After`` as a date, *seconds* ahead."""

    seconds: int = 1

    def act(self, request: Request, respond: Respond) -> Reply:  # noqa: ARG002  # the protocol's arguments
        date = formatdate(time.time() + self.seconds, usegmt=True)
        return error(429, None, "We had to rate limit you", {"Retry-After": date})


@define(eq=False)
class HangUp(Planned):
    """The connection ends before any answer."""

    reset: bool = False

    def act(self, request: Request, respond: Respond) -> Reply:  # noqa: ARG002  # the protocol's arguments
        raise CutOff(reset=self.reset)


@define(eq=False)
class Silence(Planned):
    """No answer at all, for ever."""

    def act(self, request: Request, respond: Respond) -> Reply:
        request.stopping.wait()
        return respond(request)


@define(eq=False)
class ResetAtShare(Spoiling):
    """RST when *share* of the body is sent."""

    share: float = 0.5

    def spoil(self, reply: Reply, request: Request) -> Reply:
        after = int(int(reply.headers["Content-Length"]) * self.share)
        return Cut(after=after, reset=True).spoil(reply, request)


@define(eq=False)
class Stall(Spoiling):
    """Sends *after* bytes, then nothing, for ever; the connection stays open."""

    after: int = 0

    def spoil(self, reply: Reply, request: Request) -> Reply:
        def stalling() -> Iterator[bytes]:
            yield _whole(reply)[: self.after]
            request.stopping.wait()

        return evolve(reply, body=stalling)


@define(eq=False)
class Trickle(Spoiling):
    """One byte at a time, *rate* of them a second: never silent for long, never done."""

    rate: float = 10.0

    def spoil(self, reply: Reply, request: Request) -> Reply:
        def trickling() -> Iterator[bytes]:
            for byte in _whole(reply):
                if request.stopping.wait(1 / self.rate):
                    return
                yield bytes([byte])

        return evolve(reply, body=trickling)


@define(eq=False)
class Limited(Spoiling):
    """No more than *rate* bytes a second on each connection, however many there are."""

    rate: float = 20e6

    def spoil(self, reply: Reply, request: Request) -> Reply:
        def pacing() -> Iterator[bytes]:
            began, sent = time.monotonic(), 0
            for part in _small(reply, 64 * 1024):
                sent += len(part)
                request.stopping.wait(max(0.0, began + sent / self.rate - time.monotonic()))
                yield part

        return evolve(reply, body=pacing)


@define(eq=False)
class HeldBack(Spoiling):
    """Once *most* bytes were sent, all connections together, nobody gets any more until `go_on` is set."""

    most: int = 0
    go_on: threading.Event = field(factory=threading.Event, init=False, repr=False)
    _sent: int = field(default=0, init=False)

    @property
    def holds(self) -> bool:
        """Whether so much was sent."""
        return self._sent >= self.most

    def spoil(self, reply: Reply, request: Request) -> Reply:
        def holding() -> Iterator[bytes]:
            for part in _small(reply, 64 * 1024):
                while self.holds and not (self.go_on.wait(0.02) or request.stopping.is_set()):
                    pass
                with self._lock:
                    self._sent += len(part)
                yield part

        return evolve(reply, body=holding)


@define(eq=False)
class Drops(Spoiling):
    """As fast as it goes for *after* bytes of the body, then *rate* bytes a second to the end: silent never, useful no more."""

    after: int = 0
    rate: float = 50e3

    def spoil(self, reply: Reply, request: Request) -> Reply:
        def dropping() -> Iterator[bytes]:
            sent = 0
            for part in _small(reply, 4 * 1024):
                sent += len(part)
                if sent > self.after and request.stopping.wait(len(part) / self.rate):
                    return
                yield part

        return evolve(reply, body=dropping)


@define(eq=False)
class IgnoredRange(Planned):
    """200 and the whole file, whatever range was asked for."""

    def act(self, request: Request, respond: Respond) -> Reply:
        return respond(with_range(request, None))


@define(eq=False)
class WrongOffset(Planned):
    """206 from *off* bytes beside the offset asked for; *honest* says so in Content-Range."""

    off: int = -1
    honest: bool = True

    def act(self, request: Request, respond: Respond) -> Reply:
        asked = request.headers.get("Range")
        if asked is None:
            return respond(request)
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        reply = respond(with_range(request, f"bytes={start + self.off}-"))
        if self.honest or reply.file is None:
            return reply
        size = reply.file.size
        claim = {"Content-Range": f"bytes {start}-{size - 1}/{size}", "Content-Length": str(size - start)}
        return evolve(reply, headers={**reply.headers, **claim}, body=lambda: iter([_whole(reply)[: size - start]]))


@define(eq=False)
class WithHeaders(Planned):
    """Some headers changed; None takes one away."""

    change: dict[str, str | None] = field(factory=dict)

    def act(self, request: Request, respond: Respond) -> Reply:
        reply = respond(request)
        kept = {name: value for name, value in reply.headers.items() if name not in self.change}
        return evolve(
            reply, headers={**kept, **{name: value for name, value in self.change.items() if value is not None}}
        )


@define(eq=False)
class Truncated(Spoiling):
    """Only *keep* bytes of the body; *matching* announces just these, else the right length is announced."""

    keep: int = 0
    matching: bool = True

    def spoil(self, reply: Reply, request: Request) -> Reply:  # noqa: ARG002  # the protocol's arguments
        headers = {**reply.headers, "Content-Length": str(self.keep)} if self.matching else reply.headers
        return evolve(reply, headers=headers, body=lambda: iter([_whole(reply)[: self.keep]]))


@define(eq=False)
class OverLong(Spoiling):
    """The body and *extra* zeros; *announced* in Content-Length, else no length is announced at all."""

    extra: int = 1
    announced: bool = True

    def spoil(self, reply: Reply, request: Request) -> Reply:  # noqa: ARG002  # the protocol's arguments
        body = _whole(reply) + bytes(self.extra)
        headers = {name: value for name, value in reply.headers.items() if name != "Content-Length"}
        if self.announced:
            headers["Content-Length"] = str(len(body))
        return evolve(reply, headers=headers, body=lambda: iter([body]))


@define(eq=False)
class Flipped(Spoiling):
    """One bit of the byte at offset *at* of the file is wrong; the size is right."""

    at: int = 0

    def spoil(self, reply: Reply, request: Request) -> Reply:  # noqa: ARG002  # the protocol's arguments
        body = bytearray(_whole(reply))
        if 0 <= self.at - reply.start < len(body):
            body[self.at - reply.start] ^= 1
        return evolve(reply, body=lambda: iter([bytes(body)]))


_OTHER = bytes(byte ^ 0xFF for byte in range(256))


@define(eq=False)
class Poison(Spoiling):
    """Every byte is wrong, in every answer alike; sizes and headers are right."""

    def spoil(self, reply: Reply, request: Request) -> Reply:  # noqa: ARG002  # the protocol's arguments
        return evolve(reply, body=lambda: (piece.translate(_OTHER) for piece in reply.body()))


@define(eq=False)
class StaleCommit(Planned):
    """What *commit* had is sent for every other one; *honest* says so in ``X-Repo-Commit`` and in what names the content."""

    commit: str = ""
    honest: bool = True

    def act(self, request: Request, respond: Respond) -> Reply:
        target = re.sub(r"(/resolve/)[0-9a-f]{40}/", rf"\g<1>{self.commit}/", request.target)
        reply = respond(evolve(request, target=target))
        named = {"X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "ETag"}
        kept = {name: value for name, value in reply.headers.items() if self.honest or name not in named}
        return evolve(reply, headers=kept)


@define(eq=False)
class WrongEtag(Planned):
    """The right bytes under *etag*, which names others."""

    etag: str = "0" * 64

    def act(self, request: Request, respond: Respond) -> Reply:
        reply = respond(request)
        names = {"ETag", "X-Linked-Etag"}
        return evolve(
            reply,
            headers={name: f'"{self.etag}"' if name in names else value for name, value in reply.headers.items()},
        )


@define(eq=False)
class Dies(Planned):
    """Answers *after* requests, and then nothing any more: the connection ends before any answer, for good."""

    after: int = 0

    def __call__(self, request: Request, respond: Respond, /) -> Reply:
        due = self._due(request)
        return self.act(request, respond) if due and self.happened > self.after else respond(request)

    def act(self, request: Request, respond: Respond) -> Reply:  # noqa: ARG002  # the protocol's arguments
        raise CutOff(reset=True)


@define(eq=False)
class CutShare(Spoiling):
    """The connection ends at a random place in the body of *share* of the answers, half of them by a RST; *seed* decides which and where."""

    share: float = 0.12
    seed: int = 0
    cuts: int = field(default=0, init=False)
    _random: random.Random = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def spoil(self, reply: Reply, request: Request) -> Reply:
        length = int(reply.headers["Content-Length"])
        with self._lock:
            unlucky, place, reset = (self._random.random() for _ in range(3))
            if unlucky >= self.share or not length:
                return reply
            self.cuts += 1
        return Cut(after=int(place * length), reset=reset < 0.5).spoil(reply, request)


@define(eq=False)
class Pointer(Spoiling):
    """The git-lfs pointer in place of the content, as a mirror sends that was filled without git-lfs."""

    def spoil(self, reply: Reply, request: Request) -> Reply:  # noqa: ARG002  # the protocol's arguments
        assert reply.file is not None
        return plain(200, pointer(reply.file), "application/octet-stream", {"ETag": f'"{reply.file.oid}"'})


def pointer(file: StoredFile) -> bytes:
    """What git holds of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n".encode()


@define(eq=False)
class WebPage(Planned):
    """200 with a web page: a captive portal, a login form, an error page of a CDN."""

    page: bytes = b"<!doctype html><title>Sign in</title>"

    def act(self, request: Request, respond: Respond) -> Reply:  # noqa: ARG002  # the protocol's arguments
        return plain(200, self.page, "text/html; charset=utf-8")


@define(eq=False)
class Body(Planned):
    """200 with *body* as JSON, whatever was asked."""

    body: bytes = b"{}"

    def act(self, request: Request, respond: Respond) -> Reply:  # noqa: ARG002  # the protocol's arguments
        return plain(200, self.body, "application/json")


@define(eq=False)
class RedirectTo(Planned):
    """A redirect to *location*; None means to the same address again, for ever."""

    location: str | None = None
    status: int = 302

    def act(self, request: Request, respond: Respond) -> Reply:  # noqa: ARG002  # the protocol's arguments
        return redirect(self.status, self.location or request.target)


def tree_entry(path: object = "config.json", **changed: object) -> dict[str, object]:
    """One file of a tree answer, as the Hub writes it."""
    return {"type": "file", "oid": "a" * 40, "size": 1, "path": path, **changed}


def _whole(reply: Reply) -> bytes:
    return b"".join(reply.body())


def _small(reply: Reply, most: int) -> Iterator[bytes]:
    """The body in pieces of *most* bytes."""
    for piece in reply.body():
        for at in range(0, len(piece), most):
            yield piece[at : at + most]


def with_range(request: Request, value: str | None) -> Request:
    """*request* with another range, or with none."""
    kept = [(name, each) for name, each in request.headers.items() if name.lower() != "range"]
    return evolve(request, headers=Headers(kept if value is None else [*kept, ("Range", value)]))
