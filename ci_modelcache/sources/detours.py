"""
The only module that remembers where a redirect led.

Each range of a large file would cost a request to the Hub, which counts them (3,000 in five minutes for anonymous callers), only
to be sent to the same signed URL of a CDN again. Such a URL is a secret: it is handed to `HttpSession.ask` and to nobody else.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

UNSIGNED = 300.0
"""Seconds that a URL is used which does not say how long it is good."""
LONGEST = 900.0
MARGIN = 30.0
"""Seconds before its end at which a URL is given up: clocks differ, and requests take time."""
MOST = 1024
"""URLs that are remembered; the one used longest ago goes first."""

_SECONDS = re.compile(r"\d{1,12}", re.ASCII)


@frozen
class _Detour:
    url: str = field(repr=False)
    until: float


class Detours:
    """Final URLs by what was asked for, each for some minutes; *now* is in seconds since the epoch. Any thread may call."""

    def __init__(self, *, now: Callable[[], float], most: int = MOST) -> None:
        self._now = now
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, _Detour] = OrderedDict()

    def find(self, key: Hashable) -> str | None:
        """Where *key* was last found, while that is good."""
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return None
            if known.until <= self._now():
                del self._known[key]
                return None
            self._known.move_to_end(key)
            return known.url

    def learn(self, key: Hashable, url: str) -> None:
        """*key* was found at *url*."""
        now = self._now()
        until = min(expiry(url, now=now) - MARGIN, now + LONGEST)
        with self._lock:
            self._known[key] = _Detour(url, until)
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """What was learnt of *key* is of no more use."""
        with self._lock:
            self._known.pop(key, None)


def expiry(url: str, *, now: float) -> float:
    """
    Until when *url* is good, in seconds since the epoch.

    ``X-Amz-Date`` and ``X-Amz-Expires`` are of AWS Signature 4 (and the same with ``X-Goog-``), ``Expires`` is of CloudFront and
    of AWS Signature 2; a URL that has none of them is taken to be good for `UNSIGNED` seconds and the margin.
    """
    query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    for vendor in ("x-amz", "x-goog"):
        seconds = query.get(f"{vendor}-expires", "")
        if _SECONDS.fullmatch(seconds):
            return _signed(query.get(f"{vendor}-date", ""), now) + int(seconds)
    until = query.get("expires", "")
    return float(until) if _SECONDS.fullmatch(until) else now + UNSIGNED + MARGIN


def _signed(date: str, now: float) -> float:
    try:
        return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        # No date, or none that can be read: it was signed for this very redirect.
        return now
