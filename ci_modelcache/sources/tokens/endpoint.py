"""The only module that knows how endpoints answer that hand out tokens: OAuth 2 (RFC 6749, 8693), GitHub's, a Hub's."""

from __future__ import annotations

import datetime as dt
import json
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ci_modelcache.errors import AccessDenied, ConfigError, Misanswer, ModelCacheError, RateLimited, Unavailable
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.answers import seconds_to_wait
from ci_modelcache.sources.origin import Origin
from ci_modelcache.sources.tokens.issued import Issued, end_of, issued, number, token_of

if TYPE_CHECKING:
    from ci_modelcache.sources.http import Answer, Content, Credential, HttpSession
    from ci_modelcache.transfer.deadline import Deadline

_MAX_ANSWER = 256 * 1024
_MAX_DETAIL = 200
_TOKENS = ("access_token", "accessToken", "token", "value", "id_token")
_SECONDS = ("expires_in", "expiresIn")
_ENDS = ("exp", "expires_at", "expires_on", "expiresOn")
_GIVEN = {200, 201}
_PASSING = {408, 425, 500, 502, 503, 504}
_CHECK_ADDRESS = "check the address: it has to be the token endpoint itself"


def checked_address(url: str) -> Origin:
    """The origin of *url*; raises `ConfigError` unless it is https: what is sent there is worth more than the token that comes back."""
    try:
        origin = Origin.of(url)
    except ValueError as error:
        msg = f"not the address of a token endpoint: {redact(url)!r:.200}"
        raise ConfigError(msg, hint="write it as https://host/path") from error
    if origin.scheme != "https" and not _is_loopback(origin.host):
        msg = f"secrets are not sent unencrypted to {origin}"
        raise ConfigError(msg, hint="name the token endpoint by https")
    return origin


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ask_for_token(
    url: str,
    *,
    session: HttpSession,
    doing: str,
    deadline: Deadline,
    credential: Credential | None = None,
    content: Content | None = None,
) -> Issued:
    """The token that *url* hands out, by POST with *content*, else by GET; *doing* begins every message."""
    with session.ask(
        url,
        doing=doing,
        deadline=deadline,
        credential=credential,
        content=content,
        headers={"Accept": "application/json"},
    ) as answer:
        if answer.stranger is not None:
            msg = f"{doing}: we were sent on to {answer.stranger}, which is not believed about tokens"
            raise Misanswer(msg, about="page", hint=_CHECK_ADDRESS)
        data = answer.read(_MAX_ANSWER)
        document = _document(data)
        if answer.status not in _GIVEN:
            raise _refusal(answer, document, doing, session)
    return parse_answer(document, now=session.now(), doing=doing)


def parse_answer(document: dict[str, object] | None, *, now: float, doing: str) -> Issued:
    """The token in *document*, and its end: in seconds from *now*, as a time, or else as the token itself says."""
    found = {} if document is None else document
    secret = next((value for key in _TOKENS if isinstance(value := found.get(key), str) and value), None)
    if secret is None:
        what = "no JSON" if document is None else f"JSON without {' or '.join(_TOKENS[:3])}"
        msg = f"{doing}: expected a token, got {what}"
        raise Misanswer(msg, about="page", hint=_CHECK_ADDRESS)
    token = token_of(secret, name=doing, hint=_CHECK_ADDRESS)
    lasts = next((value for key in _SECONDS if (value := number(found.get(key))) is not None), None)
    ends = next((value for key in _ENDS if (value := _time(found.get(key))) is not None), None)
    until = now + lasts if lasts is not None else ends if ends is not None else end_of(secret)
    return issued(token, since=now, until=until, doing=doing)


def _document(data: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        # A page for people, or nothing: whoever asked says so.
        return None
    return found if isinstance(found, dict) else None


def _time(value: object) -> float | None:
    found = number(value)
    if found is not None or not isinstance(value, str):
        return found
    try:
        when = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    # One without a zone could be anybody's noon.
    return None if when.tzinfo is None else when.timestamp()


def _refusal(answer: Answer, document: dict[str, object] | None, doing: str, session: HttpSession) -> ModelCacheError:
    said = f"{doing}: answered {answer.status}{_detail(document, session)}"
    wait = seconds_to_wait(answer.headers, now=session.now())
    if answer.status == 429 or (answer.status == 503 and wait is not None):  # noqa: PLR2004  # HTTP's own numbers
        return RateLimited(said, retry_after=wait)
    if answer.status in _PASSING or answer.status > 504:  # noqa: PLR2004  # as above
        return Unavailable(said)
    if answer.status in {404, 405, 410, 415}:
        return ConfigError(said, hint=_CHECK_ADDRESS)
    hint = (
        "what was traded for the token may have ended, or be meant for somebody else: check subject, audience and scope"
    )
    return AccessDenied(said, hint=hint)


def _detail(document: dict[str, object] | None, session: HttpSession) -> str:
    """The words of RFC 6749, 5.2 (``error``, ``error_description``), or of those who have a ``message``."""
    words = (None if document is None else document.get(key) for key in ("error", "error_description", "message"))
    text = ": ".join(word for word in words if isinstance(word, str) and word)
    text = " ".join(redact(text, secrets=session.secrets).split())
    return f": {text[:_MAX_DETAIL]}" if text else ""
