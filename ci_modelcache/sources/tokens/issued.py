"""The only module that knows how long a token is good, and what a provider of tokens is."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from ci_modelcache.errors import ConfigError, Misanswer
from ci_modelcache.sources.token import Token

if TYPE_CHECKING:
    from ci_modelcache.transfer.deadline import Deadline

ASSUMED = 300.0
"""Seconds that a token is used when nobody says how long it is good; such a one is kept in memory only."""

_EARLY = 300.0
_SHARE = 0.8
_LEEWAY = 5.0
_LONGEST = 366 * 86400.0


@frozen
class Issued:
    """A *token* that was handed out at *since* and is good until *until*, in seconds since the epoch; None: nobody said."""

    token: Token
    since: float
    until: float | None = None

    @property
    def renew_at(self) -> float:
        """From when on a new one is asked for, while this one still serves: 5 minutes before its end, or after 80 % of its time if that is later."""
        end = self._end
        return max(end - _EARLY, self.since + _SHARE * (end - self.since))

    @property
    def unusable_at(self) -> float:
        """From when on it is not used any more: a little before its end, as it could end on its way."""
        return self._end - min(_LEEWAY, (self._end - self.since) / 10)

    @property
    def _end(self) -> float:
        return self.since + ASSUMED if self.until is None else self.until


class Provider(Protocol):
    """One way to get a token; it keeps nothing and tries once."""

    @property
    def name(self) -> str:
        """How people know it: what they wrote, without what could be secret."""

    def identity(self) -> str:
        """
        What tells one asker from another, which may be secret itself: jobs that share a state folder must not share a token.

        Raises as `issue`.
        """

    def issue(self, *, deadline: Deadline) -> Issued:
        """A token. Raises `ConfigError`, `AccessDenied`, `Unavailable`, `Misanswer` or `DeadlineExceeded`, in words without secrets."""


def token_of(secret: str, *, name: str, hint: str) -> Token:
    """*secret* as a token; one that cannot be sent is a `ConfigError` about the provider *name*."""
    try:
        return Token(secret)
    except ConfigError as error:
        msg = f"{name}: {error.message}"
        # Not `from error`: its words are those for HF_TOKEN.
        raise ConfigError(msg, hint=hint) from None


def claims(secret: str) -> dict[str, object]:
    """What *secret* says about itself if it is a JWT (RFC 7519), unverified; else nothing."""
    parts = secret.split(".")
    if len(parts) != 3:  # noqa: PLR2004  # header, claims, signature
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        # Three parts and no JWT: an opaque token may have dots.
        return {}
    return found if isinstance(found, dict) else {}


def end_of(secret: str) -> float | None:
    """When *secret* ends, in seconds since the epoch, if it is a JWT that says so."""
    return number(claims(secret).get("exp"))


def number(value: object) -> float | None:
    """*value* as a number: JSON's own, or digits in quotes as some token endpoints have them; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def issued(token: Token, *, since: float, until: float | None, doing: str) -> Issued:
    """*token* with its times, which a server may have made up; one that has ended already is a `Misanswer`."""
    if until is not None and until <= since:
        msg = f"{doing}: got a token that ended {since - until:.0f} s ago"
        raise Misanswer(msg, about="page", hint="compare the clocks of this machine and of that server")
    return Issued(token, since, None if until is None else min(until, since + _LONGEST))
