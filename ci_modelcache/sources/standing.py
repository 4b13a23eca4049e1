"""The only module that remembers between runs how mirrors did: one file, shared by all processes, that may be lost."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from ci_modelcache.errors import ModelCacheError
from ci_modelcache.sources.health import Health
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.exclusive import exclusive
from ci_modelcache.transfer.land import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

_FORMAT = 1
_PATIENCE = 2.0
"""Seconds to wait for another process that is writing."""
_FORGOTTEN = 30 * 86_400.0
"""Seconds after which a source that nobody asked is forgotten."""
_SUMS = ("attempts", "received", "proven")
_LONGEST = 500
"""Characters of a decision: it may quote an error."""


class Standing:
    """
    The health of sources by URL, kept at *path*; *clock* gives seconds since the epoch.

    Two processes that write at once lose nothing: what this one saw is added to what the file says by then. A file
    that cannot be read or written is no failure: then nothing is known, or remembered.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._began: dict[str, Health] = {}

    def load(self) -> dict[str, Health]:
        """What is known, by URL."""
        found = self._read()
        self._began = {url: _copy(health) for url, health in found.items()}
        return found

    def save(self, seen: Mapping[str, Health]) -> None:
        """Add what was *seen* since `load`, or the last `save`, to what the file says."""
        try:
            with exclusive(f"{self._path}", folder=self._path.parent / "locks", deadline=Deadline(_PATIENCE)):
                now = self._clock()
                known = self._read()
                for url, health in seen.items():
                    known[url] = _merged(known.get(url), health, since=self._began.get(url, Health()))
                    self._began[url] = _copy(health)
                kept = {url: _plain(health) for url, health in known.items() if now - health.seen < _FORGOTTEN}
                with replacing(self._path, mode=0o600) as file:
                    file.write(json.dumps({"format": _FORMAT, "mirrors": kept}, indent=1).encode())
        except (OSError, ModelCacheError) as error:
            _log.info("how the mirrors did is not remembered: %s", error)

    def _read(self) -> dict[str, Health]:
        try:
            plain = json.loads(self._path.read_bytes())
            if plain["format"] != _FORMAT:
                return {}
            known = {str(url): _health(fields) for url, fields in plain["mirrors"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            _log.info("what is remembered of the mirrors cannot be read and counts as nothing: %s", error)
            return {}
        for health in known.values():
            health.corrected(self._clock())
        return known


def _merged(known: Health | None, seen: Health, *, since: Health) -> Health:
    """*known*, which other processes may have written meanwhile, and what this one saw *since* it last looked."""
    if known is None:
        return seen
    merged = _copy(seen)
    for name in _SUMS:
        setattr(merged, name, getattr(known, name) + getattr(seen, name) - getattr(since, name))
    merged.failures = known.failures + (seen.failures - since.failures)
    if seen.attempts == since.attempts:
        # Nothing was measured here: the others' figures stand, and what they hold against it.
        merged.first_byte, merged.speed = known.first_byte, known.speed
        merged.first_bytes, merged.speeds = known.first_bytes.copy(), known.speeds.copy()
    if seen.failures == since.failures and seen.attempts == since.attempts:
        merged.blame, merged.barred = known.blame, known.barred
    merged.last_limited = max(filter(None, (known.last_limited, seen.last_limited)), default=None)
    merged.limited_until = max(known.limited_until, seen.limited_until)
    merged.barred_until = max(known.barred_until, seen.barred_until)
    merged.seen = max(known.seen, seen.seen)
    if seen.decided == since.decided:
        merged.decided = known.decided
    return merged


def _copy(health: Health) -> Health:
    return _health(_plain(health))


def _plain(health: Health) -> dict[str, object]:
    return {
        "first_byte": health.first_byte,
        "speed": health.speed,
        "first_bytes": list(health.first_bytes),
        "speeds": list(health.speeds),
        "attempts": health.attempts,
        "received": health.received,
        "proven": health.proven,
        "failures": dict(health.failures),
        "last_limited": health.last_limited,
        "limited_until": health.limited_until,
        "blame": health.blame,
        "barred_until": health.barred_until,
        "barred": health.barred,
        "seen": health.seen,
        "decided": health.decided[:_LONGEST],
    }


def _health(fields: Mapping[str, object]) -> Health:
    """Raises `TypeError`, `ValueError` or `KeyError` for what `_plain` did not write."""
    known = Health()
    for name in ("limited_until", "blame", "barred_until", "seen"):
        setattr(known, name, _number(fields[name]))
    for name in ("first_byte", "speed", "last_limited"):
        setattr(known, name, None if fields[name] is None else _number(fields[name]))
    for name in (*_SUMS, "barred"):
        setattr(known, name, int(_number(fields[name])))
    known.first_bytes.extend(_numbers(fields["first_bytes"]))
    known.speeds.extend(_numbers(fields["speeds"]))
    failures = fields["failures"]
    if not isinstance(failures, dict):
        raise TypeError(failures)
    known.failures = Counter({str(cause): int(_number(count)) for cause, count in failures.items()})
    known.decided = str(fields["decided"])
    return known


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(value)
    return float(value)


def _numbers(value: object) -> list[float]:
    if not isinstance(value, list):
        raise TypeError(value)
    return [_number(each) for each in value]
