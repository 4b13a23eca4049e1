"""
Everything that was seen, or may be expected, to go wrong between a Hub, its mirrors and a client.

Each fault is planned (`when`, `times`) and given to a `LoopbackHub`; several hubs with different plans
can run side by side.
"""

from __future__ import annotations

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


def with_range(request: Request, value: str | None) -> Request:
    """*request* with another range, or with none."""
    kept = [(name, each) for name, each in request.headers.items() if name.lower() != "range"]
    return evolve(request, headers=Headers(kept if value is None else [*kept, ("Range", value)]))
