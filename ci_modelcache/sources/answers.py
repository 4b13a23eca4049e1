"""
The only module that knows what an HTTP answer means that is not the one hoped for.

The Hub says in ``X-Error-Code`` what is wrong (`huggingface_hub`, utils/_http.py, hf_raise_for_status);
mirrors and proxies often drop it, and then the status alone has to do.
"""

from __future__ import annotations

import json
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from ci_modelcache.errors import (
    AccessDenied,
    FileNotFound,
    IntegrityError,
    ModelCacheError,
    NotFound,
    RateLimited,
    RepositoryNotFound,
    RevisionNotFound,
    Unavailable,
)
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.token import Token

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_PASSING = {408, 425, 500, 502, 503, 504}
_DISABLED = "Access to this resource is disabled."
_MAX_DETAIL = 200
_RATE_LIMIT = re.compile(r"[^,]*?;\s*r=(\d{1,9})\s*;\s*t=(\d{1,9})")


class Refused(Protocol):
    """An answer whose status is an error, as far as this module looks at it."""

    @property
    def status(self) -> int:
        """The HTTP status code."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names are looked up without regard to case."""

    @property
    def stranger(self) -> str | None:
        """The origin that gave the answer, when a redirect led away from the one that was asked; else None."""

    def read(self, limit: int) -> bytes:
        """At most *limit* bytes of the body."""


@frozen
class Asking:
    """Who was asked for what: the facts that a message needs and an answer does not carry."""

    where: str
    """The endpoint as its user writes it."""
    what: str
    """What was asked for, such as ``acme/tiny@main``."""
    page: str
    """The page of the repository, where terms are accepted."""
    token: Token | None
    """The token that was sent, if any: some servers quote it in their error, and no message may."""
    missing: type[NotFound]
    """What a 404 means that does not say what it means."""


def refusal(answer: Refused, asking: Asking, *, now: float) -> ModelCacheError:
    """The error to raise for *answer*; *now* is in seconds since the epoch, for dates in ``Retry-After``."""
    if answer.stranger is not None:
        return _strange(answer, asking, now=now)
    return _by_code(answer, asking) or _by_status(answer, asking, now=now)


def _by_status(answer: Refused, asking: Asking, *, now: float) -> ModelCacheError:
    said = f"{asking.where} answered {answer.status} for {asking.what}{detail(answer, asking)}"
    wait = seconds_to_wait(answer.headers, now=now)
    if answer.status == 429 or (answer.status == 503 and wait is not None):  # noqa: PLR2004  # HTTP's own numbers
        quota = (
            None
            if asking.token is not None
            else "anonymous calls share one quota per address: set HF_TOKEN for one of your own"
        )
        return RateLimited(said, retry_after=wait, hint=quota)
    if answer.status in _PASSING or answer.status > 504:  # noqa: PLR2004  # as above
        return Unavailable(said)
    if answer.status in {404, 410}:
        return asking.missing(
            said, hint=f"check the name; the answer has no X-Error-Code, so check too that {asking.where} is a Hub"
        )
    if answer.status in {401, 403, 407, 451}:
        return _denied(answer.status, said, asking)
    return IntegrityError(said, hint=f"no Hub answers so: is {asking.where} the right address?")


def _by_code(answer: Refused, asking: Asking) -> ModelCacheError | None:
    code = answer.headers.get("X-Error-Code")
    if code == "RevisionNotFound":
        said = f"{asking.where} has no such revision: {asking.what}"
        return _definite(RevisionNotFound(said, hint="check the branch, tag or commit"))
    if code == "EntryNotFound":
        missing = FileNotFound(f"{asking.where} has no such file: {asking.what}")
        # Of which commit that is true, it says itself; of another than was asked for it tells nothing.
        commit = answer.headers.get("X-Repo-Commit", "")
        return _definite(missing) if commit and asking.what.endswith(f"@{commit}") else missing
    if code == "GatedRepo":
        first = "" if asking.token is not None else "set HF_TOKEN to a token of an account that has access; "
        return AccessDenied(
            f"{asking.what} is gated on {asking.where}, and access is not granted",
            hint=f"{first}accept the terms at {asking.page} with the account that the token belongs to",
        )
    if answer.headers.get("X-Error-Message") == _DISABLED:
        return AccessDenied(f"{asking.where} has disabled access to {asking.what}", hint=f"see {asking.page}")
    if code == "RepoNotFound" and answer.status != 401:  # noqa: PLR2004  # 401: missing or private, the Hub does not tell
        hint = "check the name" + (
            "; a private repository looks the same to a token without access" if asking.token is not None else ""
        )
        return _definite(RepositoryNotFound(f"{asking.where} has no such repository: {asking.what}", hint=hint))
    return None


def _definite(error: NotFound) -> NotFound:
    error.definite = True
    return error


def _denied(status: int, said: str, asking: Asking) -> AccessDenied:
    if status == 407:  # noqa: PLR2004  # HTTP's own number
        return AccessDenied(said, hint="a proxy wants a user and a password: put them into HTTPS_PROXY or HTTP_PROXY")
    if asking.token is None:
        hint = "set HF_TOKEN if it is private; a Hub says the same of a name that does not exist, so check the name"
    elif status == 401:  # noqa: PLR2004  # as above
        hint = "the token is wrong, expired or revoked: set HF_TOKEN to a new one"
    else:
        hint = "the token lacks a permission: a fine-grained one needs read access to this repository"
    return AccessDenied(said, hint=hint)


def _strange(answer: Refused, asking: Asking, *, now: float) -> ModelCacheError:
    """
    An error from where a redirect led, which is storage and knows nothing of repositories and users.

    403 is a link that expired or a clock that is wrong, 404 an object that has not arrived yet: nobody's
    verdict on the caller. Asking again for a new link is the remedy, so these are `Unavailable`.
    """
    said = f"{asking.where} sent us to {answer.stranger} for {asking.what}, which answered {answer.status}{detail(answer, asking)}"
    wait = seconds_to_wait(answer.headers, now=now)
    return Unavailable(said) if wait is None else RateLimited(said, retry_after=wait)


def detail(answer: Refused, asking: Asking) -> str:
    """What the other side says about its error, as ``: text`` without the token, or nothing when it says nothing for people."""
    # Whatever its form: that of a mirror need not look like one of the Hub.
    secrets = () if asking.token is None else (asking.token.secret,)
    text = answer.headers.get("X-Error-Message") or _body_text(answer.read(4096))
    text = " ".join(redact(text, secrets=secrets).split())
    return f": {text[:_MAX_DETAIL]}" if text else ""


def _body_text(body: bytes) -> str:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        # HTML, or nothing: its first line would be a doctype.
        return ""
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, str) else ""


def seconds_to_wait(headers: Mapping[str, str], *, now: float) -> float | None:
    """
    Seconds that *headers* ask us to wait, or None when they do not.

    ``Retry-After`` in seconds or as a date (RFC 9110, 10.2.3; a date is compared with the answer's own
    ``Date``, so that our clock does not matter), ``RateLimit: "api";r=0;t=55`` (the Hub; counts only
    when nothing remains); of several the longest.
    """
    found = [float(t) for r, t in _RATE_LIMIT.findall(headers.get("RateLimit", "")[:1000]) if int(r) == 0]
    after = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", after):
        found.append(float(after))
    else:
        date, base = date_of(after), date_of(headers.get("Date", ""))
        if date is not None:
            found.append(max(0.0, date.timestamp() - (now if base is None else base.timestamp())))
    return max(found, default=None)


def date_of(text: str) -> datetime | None:
    """The date in a header, with its zone (UTC where it names none); None for one that is absent, no date, or beyond all years."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
