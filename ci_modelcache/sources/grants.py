"""The only module that reads from an answer how many more requests are granted, and tells which are counted together."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ci_modelcache.sources.answers import seconds_to_wait
from ci_modelcache.transfer.budget import Grant, Quota

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci_modelcache.sources.token import Token

_LEFT = re.compile(r'"?([^",;]*)"?\s*;\s*r=(\d{1,9})\s*;\s*t=(\d{1,9})')
_RULE = re.compile(r'"([^"]*)"\s*;\s*q=(\d{1,9})\s*;\s*w=(\d{1,9})')
_DIGITS = re.compile(r"\s*(\d{1,9})\s*")
_MOST = 1000
"""Characters of a header that are looked at: the patterns take the square of them."""


def quota_of(url: str, token: Token | None) -> Quota:
    """
    What the request for *url* is counted with.

    A Hub counts calls of ``/api/`` apart from those for files, which it calls resolvers, each for every account,
    or address where there is no token; others are taken to do the same.
    """
    parts = urlsplit(url)
    bucket = "api" if parts.path.startswith("/api/") else "resolvers"
    identity = "" if token is None else hashlib.sha256(token.secret.encode()).hexdigest()[:16]
    return Quota(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", bucket, identity)


def grant_of(status: int, headers: Mapping[str, str], *, now: float) -> Grant:
    """
    What an answer says about further requests; *now* is in seconds since the epoch.

    ``Retry-After`` counts with 429 and 503; ``RateLimit: "api";r=489;t=243`` and ``RateLimit-Policy: "api";q=500;w=300`` are
    the Hub's (draft-ietf-httpapi-ratelimit-headers-09), ``RateLimit-Remaining`` and ``RateLimit-Reset`` (in seconds) those of its earlier drafts.
    Of several counts the one with the fewest left is told.
    """
    wait = seconds_to_wait(headers, now=now) if status in {429, 503} else None
    line = headers.get("RateLimit")
    if line is None:
        remaining, reset = _number(headers, "RateLimit-Remaining"), _number(headers, "RateLimit-Reset")
        return Grant(status, wait, remaining, reset, _number(headers, "RateLimit-Limit"))
    found = [(int(left), -int(reset), name) for name, left, reset in _LEFT.findall(line[:_MOST])]
    if not found:
        return Grant(status, wait)
    left, reset, name = min(found)
    rules = {
        rule: (int(limit), float(window))
        for rule, limit, window in _RULE.findall(headers.get("RateLimit-Policy", "")[:_MOST])
    }
    limit, window = rules.get(name.strip(), (None, None))
    return Grant(status, wait, left, float(-reset), limit, window)


def _number(headers: Mapping[str, str], name: str) -> int | None:
    match = _DIGITS.fullmatch(headers.get(name, ""))
    return None if match is None else int(match[1])
