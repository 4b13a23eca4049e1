"""The only module that knows the secrets in use: whoever writes something for people hides them, with `model.redact`."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Secrets:
    """
    The secrets in use, as they become known; whoever writes something for people goes through them with `redact`.

    Any thread may `add` one while others iterate, which is always over what is known at that moment.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._told: list[Callable[[str], None]] = []
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """From now on *secret* is hidden, also as a URL, a form or JSON spells it."""
        quoted = json.dumps(secret)[1:-1]
        spelled = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), quoted, repr(secret)[1:-1]}
        if spelled <= set(self._known):
            return
        for tell in self._told:
            tell(secret)
        with self._lock:
            # The longest first: one that is a part of another must not leave the other's rest.
            self._known = tuple(sorted({*self._known, *spelled}, key=lambda each: (-len(each), each)))

    def listen(self, tell: Callable[[str], None]) -> None:
        """Call *tell* with every secret that is added from now on, before anybody can use it; what is known already was given by whoever runs us."""
        self._told.append(tell)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __repr__(self) -> str:
        return f"<{len(self._known)} secrets>"
