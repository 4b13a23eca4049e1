"""The only module that knows how many requests a host still grants to this machine, and when it may be asked again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import define, fields, frozen

from ci_modelcache.errors import RateLimited
from ci_modelcache.transfer.retry import asleep

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

LONGEST = 3600.0
"""Seconds; nothing is believed for longer, whatever a host, a file or a clock says."""

_VERSION = 1
_LENGTH = 512
"""Bytes of a file, always: one write of them is never seen by half, and never leaves the end of a longer one."""
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_TRIES, _NAP = 500, 0.002
_SKEW = 5.0
"""Seconds by which a note may seem to come from the future before the clock counts as set back."""
_SAME = 2.0
"""Seconds by which two answers, which tell whole ones, may differ about the end of one window."""
_KEPT = 86400.0
_HINT = "nothing was sent: the answer that said so may have been given to another job of this machine"


@frozen
class Quota:
    """
    What a host counts together: an *origin* (``https://host``), a *bucket* of its requests, and who asks.

    *identity* is a digest of the token, as no secret is written down, or empty for anonymous requests.
    """

    origin: str
    bucket: str
    identity: str = ""


@frozen
class Grant:
    """
    What an answer with *status* says about further requests; None: nothing. Times are seconds from the answer on.

    *wait* is for how long none is to be sent, *remaining* how many are left until *reset*; *limit* in *window* is the rule.
    """

    status: int
    wait: float | None = None
    remaining: int | None = None
    reset: float | None = None
    limit: int | None = None
    window: float | None = None


@frozen
class Ticket:
    """One request that may be sent, the *number*-th that this machine counted."""

    quota: Quota
    number: int = 0


@define
class _Note:
    """What is known of a quota. Times are seconds since the epoch; *sent* counts up for ever, and *last* is where it must stop."""

    origin: str
    bucket: str
    at: float
    sent: int = 0
    last: int = 0
    reset: float = 0.0
    limit: int = 0
    window: float = 0.0
    until: float = 0.0
    status: int = 0
    asked: float = 0.0


class Unmetered:
    """A budget that nobody keeps."""

    def take(self, quota: Quota) -> Ticket:
        """Let everybody send."""
        return Ticket(quota)

    def note(self, ticket: Ticket, grant: Grant) -> None:
        """Forget it."""


class Budget:
    """
    The requests that hosts grant, shared by all threads, and by all processes that name the same *folder*.

    One small file for each quota, locked while it is looked at: less than 50 microseconds a request, and nothing but a look for
    the file where a host says nothing about limits. What cannot be read or written is no failure: it is
    logged once, and this process goes on with what it sees itself; so it does with *folder* None. A process that is killed leaves no lock behind.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], None] = asleep,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._jitter = jitter
        self._nap = sleep
        self._lock = threading.Lock()
        self._memory: dict[Quota, _Note] = {}

    def take(self, quota: Quota) -> Ticket:
        """
        Leave to send one request; raises `RateLimited`, with the seconds to wait, when *quota* has none now.

        They are up to a tenth, and at most a second, longer than needed, each time another number, so that those who wait
        do not come back all at once.
        """

        def change(note: _Note | None) -> tuple[_Note | None, _Refusal | None]:
            return (None, None) if note is None else _counted(note, self._clock())

        note, refusal = self._change(quota, change, create=False)
        if refusal is None:
            return Ticket(quota, 0 if note is None else note.sent)
        spread = min(1.0, refusal.seconds / 10)
        raise RateLimited(refusal.words, retry_after=refusal.seconds + self._jitter(0.0, spread), hint=_HINT)

    def note(self, ticket: Ticket, grant: Grant) -> None:
        """Take note of what the answer to the request of *ticket* said."""
        if grant.wait is None and (grant.remaining is None or grant.reset is None):
            return

        def change(note: _Note | None) -> tuple[_Note | None, None]:
            return _learned(note, ticket, grant, self._clock()), None

        self._change(ticket.quota, change, create=True)

    def _change(self, quota: Quota, change: _Change, *, create: bool) -> tuple[_Note | None, _Refusal | None]:
        """Replace the note about *quota* by what *change* makes of it, for all processes where that is possible."""
        with self._lock:
            if self._folder is not None:
                try:
                    return self._change_file(self._folder, quota, change, create=create)
                except (OSError, _Unreadable) as error:
                    _log.warning("how many requests are left is not shared with other processes: %s", error)
                    self._folder = None
            result = change(self._memory.get(quota))
            if result[0] is not None:
                self._memory[quota] = result[0]
            return result

    def _change_file(
        self, folder: Path, quota: Quota, change: _Change, *, create: bool
    ) -> tuple[_Note | None, _Refusal | None]:
        path = os.path.join(folder, _name(quota))  # noqa: PTH118  # pathlib would take half the time of all this
        try:
            file = os.open(path, _FLAGS)
        except FileNotFoundError:
            if not create:
                return change(None)
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder, self._clock())
            file = os.open(path, _FLAGS | os.O_CREAT, 0o600)
        try:
            self._lock_file(file, path)
            found = os.pread(file, _LENGTH + 1, 0)
            note = _parsed(found, path)
            if found and note is None:
                os.ftruncate(file, 0)
            result = change(note)
            if result[0] is not None:
                os.pwrite(file, _written(result[0]), 0)
            return result
        finally:
            os.close(file)

    def _lock_file(self, file: int, path: str) -> None:
        for _ in range(_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # held for microseconds, unless its holder was stopped
                self._nap(_NAP)
            else:
                return
        msg = f"{path} is locked by a process that does not go on"
        raise _Unreadable(msg)


@frozen
class _Refusal:
    """Nothing may be sent for so many *seconds*; *words* say why."""

    seconds: float
    words: str


_Change = Callable[[_Note | None], tuple[_Note | None, _Refusal | None]]


class _Unreadable(Exception):
    """A file that is not to be touched."""


def _counted(note: _Note, now: float) -> tuple[_Note, _Refusal | None]:
    """*note* after one more request, or with the reason why there is to be none."""
    _correct(note, now)
    left = note.until - now
    if left > 0:
        when = time.strftime("%H:%M:%S", time.gmtime(note.asked))
        words = f"{note.origin} asked this machine to wait {math.ceil(left)} s ({note.status} at {when} UTC)"
        return note, _Refusal(left, words)
    left = note.reset - now
    if left > 0 and note.sent >= note.last:
        rule = f" ({note.limit} in {note.window:g} s)" if note.limit else ""
        words = f"{note.origin} grants this machine no more requests for {math.ceil(left)} s{rule}"
        return note, _Refusal(left, words)
    note.sent += 1
    note.at = now
    return note, None


def _learned(note: _Note | None, ticket: Ticket, grant: Grant, now: float) -> _Note | None:
    """What *note* becomes by *grant*; None when it says so already."""
    quota = ticket.quota
    known = note is not None
    note = _Note(quota.origin[:200], quota.bucket[:40], at=now) if note is None else note
    _correct(note, now)
    if grant.wait is not None and (until := now + min(grant.wait, LONGEST)) > note.until:
        note.until, note.status, note.asked, known = until, grant.status, now, False
    if grant.remaining is not None and grant.reset is not None:
        # Requests sent after this one were not counted yet when it was answered.
        last, reset = ticket.number + grant.remaining, now + min(grant.reset, LONGEST)
        if last != note.last or abs(reset - note.reset) > _SAME:
            note.last, note.reset, known = last, reset, False
            note.limit, note.window = grant.limit or 0, grant.window or 0.0
    note.at = now
    return None if known else note


def _correct(note: _Note, now: float) -> None:
    """Make *note* what it would be if the clock had not been set back since, and if nothing were longer than `LONGEST`."""
    back = note.at - now
    if back > _SKEW:
        note.at, note.until, note.reset = now, note.until - back, note.reset - back
    note.until, note.reset = min(note.until, now + LONGEST), min(note.reset, now + LONGEST)


def _name(quota: Quota) -> str:
    text = f"{quota.origin} {quota.bucket} {quota.identity}"
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


_NAMES = tuple(each.name for each in fields(_Note))


def _written(note: _Note) -> bytes:
    document = {"version": _VERSION, **{name: getattr(note, name) for name in _NAMES}}
    return json.dumps(document).encode().ljust(_LENGTH - 1) + b"\n"


def _parsed(data: bytes, path: str) -> _Note | None:
    """The note in *data*; None for a new file, and for one that makes no sense; raises `_Unreadable` for a later format's."""
    if not data:
        return None
    try:
        document = json.loads(data.decode())
        version = document.pop("version")
        if version != _VERSION:
            msg = f"{path} was written by another version"
            raise _Unreadable(msg)
        note = _Note(**document)
        # A sum of anything but numbers fails, and one with infinity or "not a number" in it is not finite.
        if not math.isfinite(
            note.at
            + note.sent
            + note.last
            + note.reset
            + note.limit
            + note.window
            + note.until
            + note.status
            + note.asked
        ):
            msg = "a number that is none"
            raise ValueError(msg)  # noqa: TRY301  # one more way to make no sense
        time.gmtime(note.asked)  # raises for a time that no calendar has
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError, OSError) as error:
        _log.warning("%s makes no sense, and begins anew: %r", path, error)
        return None
    return note


def _sweep(folder: Path, now: float) -> None:
    """Remove what nobody has written to for a day: tokens that change with every job would leave files for ever."""
    for path in folder.glob("*.json"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < now - _KEPT:
                path.unlink()
