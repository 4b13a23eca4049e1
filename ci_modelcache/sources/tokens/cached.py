"""The only module that decides when a token is asked for: rarely, early, and once for all who need it at the time."""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci_modelcache.errors import DeadlineExceeded, ModelCacheError
from ci_modelcache.sources.health import cause_of
from ci_modelcache.sources.tokens.vault import Label
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.events import TokenAsked
from ci_modelcache.transfer.exclusive import exclusive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.model.hidden import Secrets
    from ci_modelcache.sources.token import Token
    from ci_modelcache.sources.tokens.issued import Issued, Provider
    from ci_modelcache.sources.tokens.vault import Vault
    from ci_modelcache.transfer.events import Events

_log = logging.getLogger(__name__)

YOUNG = 10.0
"""Seconds; a token that is refused when so young did not end: a new one would be refused too."""
PATIENCE = 40.0
"""Seconds for which another process is let ask in our place: more than a program has to print a token."""
_BRIEFLY = 5.0
"""The same while the old token still serves."""
_AGAIN = 30.0
"""Seconds between two tries to renew a token that still serves."""


class Asking:
    """One *provider* asked on behalf of *host*: what comes is made known to *secrets*, and told to *events*."""

    def __init__(self, host: str, provider: Provider, *, secrets: Secrets, events: Events) -> None:
        self.host = host
        self.provider = provider
        self.secrets = secrets
        self._events = events

    def issue(self, *, deadline: Deadline) -> Issued:
        """A token of the provider; raises as `Provider.issue`."""
        began = time.monotonic()
        try:
            issued = self.provider.issue(deadline=deadline)
        except ModelCacheError as error:
            seconds = time.monotonic() - began
            self._events.record(
                TokenAsked(self.host, self.provider.name, seconds, cause_of(error).value, error.message)
            )
            raise
        self.secrets.add(issued.token.secret)
        self._events.record(TokenAsked(self.host, self.provider.name, time.monotonic() - began))
        _log.info("got a token for %s from %s", self.host, self.provider.name)
        return issued

    def found(self, issued: Issued) -> None:
        """Tell that *issued* was there already."""
        self.secrets.add(issued.token.secret)
        self._events.record(TokenAsked(self.host, self.provider.name, cause="cached"))


class Direct:
    """A `TokenSource` for what lies on this machine: it is looked at each time, for others change it."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._last: Token | None = None

    def token(self, *, deadline: Deadline) -> Token:
        if self._last is None:
            self._last = self._asking.issue(deadline=deadline).token
            return self._last
        token = self._asking.provider.issue(deadline=deadline).token
        if token != self._last:
            self._asking.secrets.add(token.secret)
            self._last = token
        return token

    def forget(self, token: Token) -> bool:
        # Read again by the next request: a file may have a new one by now, a variable never does.
        return self._last is not None and self._newest() != token

    def _newest(self) -> Token | None:
        try:
            return self._asking.provider.issue(deadline=Deadline(YOUNG)).token
        except ModelCacheError as error:
            _log.info("no other token for %s: %s", self._asking.host, error)
            return self._last


class Cached:
    """
    A `TokenSource` for what costs a request: kept in memory and, when it says how long it is good, in *vault*.

    Of all threads of this process and all processes that share *locks* one asks, and the others wait for what it gets, or
    share its failure; but nobody waits for ever for a process that was stopped. While the old token still serves nobody waits, and when no new one comes it is used until its end.
    """

    def __init__(
        self, asking: Asking, *, vault: Callable[[], Vault], locks: Path, now: Callable[[], float] = time.time
    ) -> None:
        self._asking = asking
        self._vault = vault
        self._locks = locks
        self._now = now
        self._lock = threading.Lock()
        self._held: Issued | None = None
        self._label: Label | None = None
        self._failure: ModelCacheError | None = None
        self._failures = 0
        self._not_before = -math.inf

    def token(self, *, deadline: Deadline) -> Token:
        held = self._held
        now = self._now()
        if held is None or held.unusable_at <= now:
            return self._next(held, deadline)
        if held.renew_at <= now and self._not_before <= now and self._lock.acquire(blocking=False):
            try:
                self._renew(held, deadline)
            finally:
                self._lock.release()
        return (self._held or held).token

    def forget(self, token: Token) -> bool:
        with self._lock:
            held = self._held
            if held is None or held.token != token:
                return True  # somebody was faster
            self._held = None
            age = self._now() - held.since
            if 0 <= age < YOUNG:  # a negative one tells of a clock that was set back, and nothing about the token
                # Refused although it is new, so that the next one would be, too: not now, but for the next request.
                _log.warning("%s refuses a token that is %.0f s old", self._asking.host, age)
                self._drop(held)
                return False
            self._drop(held)
        return True

    def _next(self, old: Issued | None, deadline: Deadline) -> Token:
        """A token when there is none that is good; one caller asks, the others wait here."""
        failures = self._failures
        with self._turn(deadline):
            held = self._held
            if held is not None and held is not old and held.unusable_at > self._now():
                return held.token
            if self._failure is not None and self._failures > failures:
                # While this caller waited another one failed: asking again at once would tell nothing new.
                raise copy.copy(self._failure)
            try:
                found = self._ask(old, deadline, patience=PATIENCE)
            except DeadlineExceeded:
                raise  # of that caller alone
            except ModelCacheError as error:
                self._failure, self._failures = error, self._failures + 1
                raise
            self._held = found
            return found.token

    def _renew(self, held: Issued, deadline: Deadline) -> None:
        try:
            self._held = self._ask(held, deadline, patience=_BRIEFLY)
        except ModelCacheError as error:
            self._not_before = self._now() + _AGAIN
            _log.warning("the token for %s could not be renewed, the old one is used: %s", self._asking.host, error)

    def _ask(self, old: Issued | None, deadline: Deadline, *, patience: float) -> Issued:
        """From the vault, if another process put a new one there; else from the provider, alone among all processes that go on."""
        provider = self._asking.provider
        label = self._label = Label(self._asking.host, provider.name, provider.identity())
        vault = self._vault()
        name = f"the token for {label.host}"
        lock = f"{name} of {label.provider}"
        with exclusive(lock, folder=self._locks, deadline=deadline, patience=patience):
            kept = vault.get(label)
            if kept is not None and (old is None or kept.token != old.token) and kept.renew_at > self._now():
                self._asking.found(kept)
                return kept
            try:
                issued = self._asking.issue(deadline=deadline)
            except ModelCacheError as error:
                if kept is None or kept.unusable_at <= self._now():
                    raise
                _log.warning("%s could not be renewed, the one of an earlier run is used: %s", name, error)
                self._not_before = self._now() + _AGAIN
                return kept
            if issued.until is not None:
                vault.put(label, issued)
            return issued

    def _drop(self, held: Issued) -> None:
        if self._label is None:
            return
        vault = self._vault()
        kept = vault.get(self._label)
        if kept is not None and kept.token == held.token:
            vault.drop(self._label)

    @contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        seconds = deadline.remaining()
        if not self._lock.acquire(timeout=-1 if seconds > threading.TIMEOUT_MAX else seconds):
            doing = f"waiting for the token for {self._asking.host}"
            raise deadline.exceeded(doing)
        try:
            yield
        finally:
            self._lock.release()
