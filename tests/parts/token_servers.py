"""Real servers of tokens on loopback: a token endpoint, the one of GitHub's runners, and somebody who wants such tokens."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def jwt(**claims: object) -> str:
    """A token that says *claims* about itself, signed by nobody."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(claims)}.c2lnbmF0dXJl"


@define
class Asked:
    """One request: its path with query, headers, and fields of its body."""

    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, str]

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query))


@define
class Reply:
    """What is answered; *body* as JSON, or as it is when it is bytes."""

    body: Any = field(factory=dict)
    status: int = 200
    headers: dict[str, str] = field(factory=dict)


@define
class TokenServer:
    """
    Answers each request with what *answer* says, and remembers it in *asked*.

    *served* counts by path without query. An *answer* that waits holds up its own request only.
    """

    url: str
    answer: Callable[[Asked], Reply]
    asked: list[Asked] = field(factory=list)

    @property
    def served(self) -> Counter[str]:
        return Counter(urlsplit(one.path).path for one in self.asked)


@contextmanager
def serving_tokens(answer: Callable[[Asked], Reply]) -> Iterator[TokenServer]:
    """Yield a running server of tokens."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            as_json = self.headers.get("Content-Type") == "application/json"
            fields = json.loads(data) if as_json else dict(parse_qsl(data.decode(), keep_blank_values=True))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(method, self.path, headers, fields)
            server.asked.append(asked)
            reply = server.answer(asked)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        server = TokenServer(f"http://127.0.0.1:{listening.server_address[1]}", answer)
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


def handing_out(*, prefix: str = "issued", seconds: float | None = 3600) -> Callable[[Asked], Reply]:
    """An answer with a new token each time: ``issued-1-opaque``, ``issued-2-opaque``, ...; good for *seconds*."""
    lock, count = threading.Lock(), 0

    def answer(_asked: Asked) -> Reply:
        nonlocal count
        with lock:
            count += 1
            body: dict[str, object] = {"access_token": f"{prefix}-{count}-opaque", "token_type": "Bearer"}
        return Reply(body if seconds is None else {**body, "expires_in": seconds})

    return answer
