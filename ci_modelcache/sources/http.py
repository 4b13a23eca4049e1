"""The only module that sends HTTP requests: tokens, redirects, proxies, TLS and time limits are decided here."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urljoin

import requests
from attrs import field, frozen

from ci_modelcache.errors import IntegrityError, Misanswer, Unavailable
from ci_modelcache.model.hidden import Secrets
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.certificates import checked
from ci_modelcache.sources.grants import grant_of, quota_of
from ci_modelcache.sources.origin import PORTS, Origin
from ci_modelcache.sources.patience import PatientAdapter
from ci_modelcache.sources.token import Token, TokenSource
from ci_modelcache.sources.transport import translating
from ci_modelcache.transfer.budget import Budget, Unmetered
from ci_modelcache.transfer.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
READ_SECONDS = 8.0
"""The longest silence, before the first byte and between two."""
ANSWER_SECONDS = 60.0
"""The longest that an answer may take that is read as a whole: a page of a tree, an error."""
MAX_REDIRECTS = 10
PIECE = 1024 * 1024
"""The most bytes of a body that are handed on at once."""

_MAX_DRAIN = 64 * 1024
_HEADERS = {"User-Agent": "ci-modelcache", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "keep-alive"}
"""Of every request. identity: an encoded body has other bytes than those that were promised."""


@frozen
class Credential:
    """Where tokens come from, and the one origin that may see them."""

    source: TokenSource
    origin: Origin


@frozen
class Content:
    """What a POST sends: *data*, which may be secret, of media type *type*."""

    data: bytes = field(repr=False)
    type: str = "application/x-www-form-urlencoded"


class Answer:
    """An answer whose body has not been read yet; `HttpSession.ask` closes it."""

    def __init__(
        self,
        response: requests.Response,
        *,
        asked: Origin,
        doing: str,
        deadline: Deadline,
        token: Token | None = None,
        hops: tuple[Mapping[str, str], ...] = (),
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.hops = (*hops, response.headers)
        """The headers of every answer on the way here, redirects first, those of this one last."""
        self.token = token
        """The token that was sent to who gave this answer."""
        self._response = response
        self._seconds = seconds
        self._doing = doing
        self._deadline = deadline
        self._answered = Origin.of(response.url)
        self._asked = asked

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names are looked up without regard to case."""
        return self._response.headers

    @property
    def url(self) -> str:
        """Where it came from in the end. After a redirect this may be signed, which makes it a secret."""
        return self._response.url

    @property
    def stranger(self) -> str | None:
        """The origin that gave the answer, when a redirect led away from the one that was asked; else None."""
        return None if self._answered == self._asked else str(self._answered)

    @property
    def next_url(self) -> str | None:
        """The URL of the next page (``Link: <...>; rel="next"``), or None."""
        url = self._response.links.get("next", {}).get("url")
        return None if url is None else urljoin(self._response.url, url)

    def close(self) -> None:
        """Give the connection back, or up when the body was not read to its end."""
        self._response.close()

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives, at most `PIECE` bytes at a time; a break raises `Unavailable`."""
        while True:
            with translating(self._doing):
                # read1, not read or iter_content: those wait until a whole piece is there, and a trickle
                # of a few bytes a second would keep the caller from ever looking at its deadline.
                piece = self._response.raw.read1(PIECE, decode_content=False)
            if not piece:
                return
            yield piece

    def read(self, limit: int) -> bytes:
        """
        At most *limit* bytes of the body, for answers that are small.

        They are to be complete within `ANSWER_SECONDS`: a trickle is `Unavailable`, although no silence was too long.
        """
        body = bytearray()
        patience = Deadline(self._seconds)
        for piece in self.pieces():
            body += piece[: limit - len(body)]
            self._deadline.check(self._doing)
            if len(body) >= limit:
                break
            if patience.remaining() <= 0:
                msg = (
                    f"{self._doing}: the answer was not complete after {self._seconds:g} s, {len(body)} bytes had come"
                )
                raise Unavailable(msg)
        return bytes(body)


@frozen
class _Request:
    """What is asked, wherever redirects lead."""

    doing: str
    deadline: Deadline
    credential: Credential | None
    headers: Mapping[str, str]
    content: Content | None

    @property
    def method(self) -> str:
        return "GET" if self.content is None else "POST"

    def refuse(self, status: int, target: str) -> NoReturn:
        """Raise for a redirect to *target* of what may not be sent on."""
        msg = f"{self.doing}: answered {status}, a redirect to {Origin.of(target)}"
        raise Misanswer(msg, about="page", hint="secrets are not sent on: name the address that answers itself")


class HttpSession(requests.Session):
    """
    Connections that are kept and shared by all threads; TLS is always verified.

    *ca_bundle* is a file or folder of certificates that replaces the built-in ones; without it
    REQUESTS_CA_BUNDLE counts. HTTP_PROXY, HTTPS_PROXY and NO_PROXY are obeyed; .netrc and cookies are
    not: what is sent to whom must not depend on a file that a CI image happens to have. Without leave of *budget* nothing is sent.
    The environment is looked at once for each origin, until `close`: to look takes longer than to send.
    """

    def __init__(
        self,
        *,
        ca_bundle: Path | None = None,
        now: Callable[[], float] = time.time,
        secrets: Secrets | None = None,
        budget: Budget | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        super().__init__()
        self.now = now
        self.secrets = Secrets() if secrets is None else secrets
        """Every token that was sent, for those who tell what was answered."""
        self._budget = budget or Unmetered()
        self._answer_seconds = answer_seconds
        self._ca_bundle = None if ca_bundle is None else checked(ca_bundle)
        self._surroundings: dict[Origin, Mapping[str, Any]] = {}
        # No retries here: they are counted in transfer.retry, once.
        adapter = PatientAdapter(pool_connections=16, pool_maxsize=64, max_retries=0)
        for scheme in PORTS:
            self.mount(f"{scheme}://", adapter)

    def close(self) -> None:
        """End the connections that are kept, and forget by which proxies and certificates they were made."""
        super().close()
        self._surroundings.clear()

    @contextmanager
    def ask(
        self,
        url: str,
        *,
        doing: str,
        deadline: Deadline,
        credential: Credential | None = None,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
    ) -> Iterator[Answer]:
        """
        GET *url* once, following at most `MAX_REDIRECTS`, and yield the answer whatever its status.

        With *content* it is a POST, and a redirect is an error: secrets are not sent on. The token of *credential* goes to
        its own origin and to nobody else; when it is refused (401) and another can be had, *url* is asked once more with that.
        What fetching a token raises passes through. *doing* ("asking x for y")
        begins every message. Raises `Unavailable` (`RateLimited` without asking, when the budget has nothing left), `ConfigError` for a certificate that cannot be
        verified, `AccessDenied` for a proxy that refuses, `IntegrityError` for redirects that make no sense.
        """
        request = _Request(doing, deadline, credential, headers or {}, content)
        answer = self._follow(url, request)
        try:
            if answer.status == 401 and credential and answer.token and credential.source.forget(answer.token):  # noqa: PLR2004  # HTTP's own number
                _log.info("%s: the token was refused; asking once more with a new one", doing)
                answer.read(_MAX_DRAIN)
                answer.close()
                answer = self._follow(url, request)
            yield answer
        finally:
            answer.close()

    def _follow(self, url: str, request: _Request) -> Answer:
        """The first answer that is not a redirect, to be closed."""
        asked = Origin.of(url)
        doing, deadline = request.doing, request.deadline
        hops: tuple[Mapping[str, str], ...] = ()
        for _ in range(MAX_REDIRECTS + 1):
            deadline.check(doing)
            response, token = self._send(url, request)
            try:
                target = _redirect(self, response, doing)
                answer = Answer(
                    response,
                    asked=asked,
                    doing=doing,
                    deadline=deadline,
                    token=token,
                    hops=hops,
                    seconds=self._answer_seconds,
                )
                if _log.isEnabledFor(logging.DEBUG):  # to redact takes longer than all else here
                    _log.debug("%s %s: %d", request.method, redact(url, secrets=self.secrets), answer.status)
                if target is None:
                    return answer
                if request.content is not None:
                    request.refuse(answer.status, target)
                # Read, so that the connection can be used again: the Hub redirects every small file.
                answer.read(_MAX_DRAIN)
            except BaseException:
                response.close()
                raise
            response.close()
            url, hops = target, answer.hops
        msg = f"{doing}: more than {MAX_REDIRECTS} redirects, the last to {Origin.of(url)}"
        raise IntegrityError(msg, hint="a proxy or a mirror is set up wrongly: it sends us in a circle")

    def _send(self, url: str, request: _Request) -> tuple[requests.Response, Token | None]:
        """The answer of *url*, and the token that was sent there."""
        doing, deadline = request.doing, request.deadline
        with translating(doing):
            prepared = _prepared(url, request)
            sent_to = prepared.url or url
        token = None
        # The origin of the URL as it will be sent: two parsers that read a URL differently would leak the token.
        origin = Origin.of(sent_to)
        if request.credential is not None and origin == request.credential.origin:
            token = request.credential.source.token(deadline=deadline)
            self.secrets.add(token.secret)
            prepared.headers["Authorization"] = f"Bearer {token.secret}"
        ticket = self._budget.take(quota_of(sent_to, token))
        with translating(doing):
            settings = self._settings(sent_to, origin)
            # Not the session's own `send`: even when told not to follow a redirect it parses the target and
            # reads the whole body, however long, and it would keep cookies.
            response = self.get_adapter(sent_to).send(
                prepared,
                stream=True,
                timeout=(deadline.at_most(CONNECT_SECONDS), deadline.at_most(READ_SECONDS)),
                verify=settings["verify"] or True,
                cert=settings["cert"],
                proxies=settings["proxies"],
            )
        self._budget.note(ticket, grant_of(response.status_code, response.headers, now=self.now()))
        return response, token

    def _settings(self, url: str, origin: Origin) -> Mapping[str, Any]:
        """By which proxies and certificates *url*, which is of *origin*, is asked."""
        found = self._surroundings.get(origin)
        if found is None:
            # Given with each request: requests lets REQUESTS_CA_BUNDLE override what is set on a session.
            verify = self._ca_bundle or True
            found = self.merge_environment_settings(url, {}, True, verify, None)  # noqa: FBT003  # not our signature
            self._surroundings[origin] = found
        return found


def _prepared(url: str, request: _Request) -> requests.PreparedRequest:
    """*request* for *url*, without what a `requests.Session` would add: cookies, and credentials of .netrc or of the URL."""
    content = request.content
    typed = {} if content is None else {"Content-Type": content.type}
    prepared = requests.PreparedRequest()
    prepared.prepare_method(request.method)
    prepared.prepare_url(url, None)
    prepared.prepare_headers({**_HEADERS, **request.headers, **typed})
    prepared.prepare_body(None if content is None else content.data, None)
    return prepared


def _redirect(session: requests.Session, response: requests.Response, doing: str) -> str | None:
    """Where *response* sends us, or None; never down from https to http, where anybody could answer."""
    try:
        location = session.get_redirect_target(response)
        if location is None:
            return None
        target = urljoin(response.url, requests.utils.requote_uri(location))
        here, there = Origin.of(response.url), Origin.of(target)
    except (ValueError, requests.exceptions.InvalidURL) as error:
        msg = f"{doing}: a redirect that leads nowhere: {redact(str(error))}"
        raise IntegrityError(msg) from error
    if here.scheme == "https" and there.scheme != "https":
        msg = f"{doing}: {here} redirects to unencrypted {there}"
        raise IntegrityError(msg, hint="this is refused always: anybody on the way could answer there")
    return target
