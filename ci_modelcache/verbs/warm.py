"""Fill the store with all that jobs will need: one model after the other, and a model that fails stops no other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import ModelCacheError
from ci_modelcache.verbs.fetch import HIT, MISS, FetchReport, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.model.window import Window
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.verbs.step import Step

SKIPPED = "skipped"

_log = logging.getLogger(__name__)


@frozen
class WarmReport:
    """What `warm` did. A failure is no report: it is raised, when all other models were tried."""

    result: str
    """``hit`` when the store had all models, ``miss`` when some were fetched, ``skipped`` when nothing was to be done."""
    reason: str
    """Why nothing was done, or empty."""
    snapshots: tuple[FetchReport, ...]
    """One for each model, in the order asked for: as that of ``fetch``."""
    seconds: float


def closed(window: Window, now: datetime) -> str:
    """Why nothing is to be done at *now*, or nothing: the *window* is open."""
    return "" if window.remaining(now) else f"{now:%H:%M} {now.tzname()} is outside of the window {window}"


def skipped(reason: str) -> WarmReport:
    """The report of a run that does nothing, for *reason*."""
    return WarmReport(SKIPPED, reason, (), 0.0)


def warm(
    models: Sequence[tuple[ModelRef, Selection]],
    *,
    locks: tuple[Lock, ...],
    cache: ModelCache,
    upstream: Upstream,
    step: Step,
    telling: Callable[[ModelRef], AbstractContextManager[Callable[[FetchReport], None]]],
) -> WarmReport:
    """
    Store each of *models* as `fetch` does, by the lock if there is one; *telling* makes the block around each, which is given its report.

    A model that fails is told, and the next one begun, unless there is no time left. At the end the first failure is raised,
    with the others in its notes.
    """
    started = step.clock()
    reports: list[FetchReport] = []
    failures: list[tuple[ModelRef, ModelCacheError]] = []
    for ref, selection in models:
        if failures and step.deadline.remaining() <= 0:
            break
        try:
            with telling(ref) as tell:
                report = fetch(ref, selection=selection, cache=cache, upstream=upstream, step=step, locks=locks)
                tell(report)
        except ModelCacheError as error:
            _log.warning("%s failed: %s", ref, error)
            failures.append((ref, error))
        else:
            reports.append(report)
    if failures:
        (ref, first), *others = failures
        for other, failure in others:
            first.add_note(f"and {other}: {failure.message}")
        first.add_note(f"{ref} failed; {len(reports)} of {len(models)} models are in the store")
        raise first
    result = HIT if all(report.result == HIT for report in reports) else MISS
    return WarmReport(result, "", tuple(reports), step.clock() - started)
