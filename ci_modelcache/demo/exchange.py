"""What one request and its reply are on the loopback Hub, and the seam at which faults are put in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Event
from typing import Protocol
from urllib.parse import parse_qs, unquote

from attrs import field, frozen

from ci_modelcache.demo.repository import StoredFile

HUB = "hub"
CDN = "cdn"

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class CutOff(Exception):
    """Raised instead of replying, or while a body is sent: the connection ends here; *reset* sends a RST, not a FIN."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


class Headers(Mapping[str, str]):
    """Headers as HTTP means them: names are looked up without regard to case."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._named = {name.lower(): (name, value) for name, value in pairs}

    def __getitem__(self, name: str) -> str:
        return self._named[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._named.values())

    def __len__(self) -> int:
        return len(self._named)


class Refusal(Exception):
    """Raised while an answer is being found: *reply* is the answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


@frozen
class Request:
    """One request to *server* (`HUB` or `CDN`), its target as it was sent; *stopping* is set when the Hub ends."""

    server: str
    method: str
    target: str
    headers: Headers
    body: bytes
    stopping: Event = field(repr=False)

    @property
    def segments(self) -> list[str]:
        """The path, split before it is decoded: ``%2F`` in a revision is no separator."""
        return [unquote(part) for part in self.target.partition("?")[0].strip("/").split("/")]

    @property
    def query(self) -> dict[str, str]:
        """The query's first values."""
        return {name: values[0] for name, values in parse_qs(self.target.partition("?")[2]).items()}

    @property
    def is_file(self) -> bool:
        """Whether bytes of a file are asked for, and not what the API knows."""
        return self.server == CDN or ("resolve" in self.segments and not self.is_api)

    @property
    def is_api(self) -> bool:
        """Whether the API is asked."""
        return self.server == HUB and "api" in self.segments[:4] and "resolve-cache" not in self.segments


@frozen
class Reply:
    """
    An answer. *body* makes the pieces to send; for a file, *start* is the offset of the first of them.

    Without a ``Content-Length`` header the connection is closed after the body.
    """

    status: int
    headers: dict[str, str]
    body: Callable[[], Iterator[bytes]]
    file: StoredFile | None = None
    start: int = 0


Respond = Callable[[Request], Reply]


class Fault(Protocol):
    """Something that goes wrong: it may change the request, the reply, both, or reply itself."""

    def __call__(self, request: Request, respond: Respond, /) -> Reply:
        """Reply to *request*; *respond* does so without this fault."""


def plain(status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply with *body* in full."""
    common = {"Content-Type": content_type, "Content-Length": str(len(body))}
    return Reply(status, {**common, **(headers or {})}, lambda: iter([body]))


def as_json(document: object, headers: Mapping[str, str] | None = None, *, status: int = 200) -> Reply:
    """*document* as JSON."""
    return plain(status, json.dumps(document).encode(), "application/json; charset=utf-8", headers)


def error(status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error as the Hub words it: in headers for HEAD, in the body for people."""
    coded = {} if code is None else {"X-Error-Code": code}
    return as_json({"error": message}, {**coded, "X-Error-Message": message, **(headers or {})}, status=status)


def redirect(status: int, location: str, headers: Mapping[str, str] | None = None) -> Reply:
    """A redirect, with a body of its own length as the Hub sends."""
    text = f"Redirecting to {location}".encode()
    return plain(status, text, "text/plain; charset=utf-8", {"Location": location, **(headers or {})})


def send_file(request: Request, file: StoredFile, headers: Mapping[str, str]) -> Reply:
    """*file*, or the part that ``Range`` asks for (RFC 9110, 14: one range; more than one is ignored)."""
    common = {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    if request.headers.get("If-None-Match", "").removeprefix("W/").strip('"') == file.etag:
        return Reply(304, {**common, "Content-Length": "0"}, lambda: iter(()))
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    if found is None or found.groups() == ("", ""):
        return _part(200, file, 0, file.size, common)
    first, last = found.groups()
    start = int(first) if first else max(0, file.size - int(last))
    stop = min(int(last) + 1, file.size) if first and last else file.size
    if start >= file.size:
        unsatisfied = {**headers, "Content-Range": f"bytes */{file.size}"}
        return error(416, None, "Range Not Satisfiable", unsatisfied)
    return _part(206, file, start, stop, {**common, "Content-Range": f"bytes {start}-{stop - 1}/{file.size}"})


def _part(status: int, file: StoredFile, start: int, stop: int, headers: dict[str, str]) -> Reply:
    length = {"Content-Length": str(stop - start)}
    return Reply(status, {**headers, **length}, lambda: file.pieces(start, stop), file=file, start=start)
