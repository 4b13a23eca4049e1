"""``ci-modelcache warm``."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.naming import locking, naming, selecting
from ci_modelcache.cli.reports import fetched, pinned
from ci_modelcache.cli.targets import Asked, locks, naming_file, targets
from ci_modelcache.model.window import Window
from ci_modelcache.settings import Mode, variable
from ci_modelcache.verbs.warm import closed, skipped, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.cli.run import Run
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.verbs.fetch import FetchReport


@verb(
    "warm",
    settings=("lock-file", "encoding"),
    examples=(
        ("what modelcache.lock names, or else modelcache.toml", "ci-modelcache warm --store s3://bucket/models"),
        ("at night, and slowly", "ci-modelcache warm --window '22:00-06:00 Europe/Berlin' --limit-rate 20MB"),
        ("before a matrix of jobs that needs it", "ci-modelcache warm org/name@v1.2"),
    ),
)
@naming
@locking
@click.option(
    "--window",
    metavar="HOURS",
    envvar=variable("window"),
    help="Work only in these hours, such as 22:00-06:00 (UTC) or '22:00-06:00 Europe/Berlin'.",
)
@selecting
def command(run: Run, window: str | None, *, locked: bool | None, **given: Any) -> None:  # noqa: ANN401  # click's
    """
    Fill the store with what jobs will need, before they do.

    Without REF all models of modelcache.lock are meant, exactly as locked, or where there is none those of modelcache.toml. Jobs
    that want the same meanwhile wait for it. Outside of --window, and in a job that mode auto lets only read, nothing is done.
    """
    named = bool(given["refs"])
    run.ci.named_in = naming_file(run.config, locked=locked, named=named)
    held = locks(run.config, locked=locked, named=named)
    chosen = targets(Asked(**given), run.config, locks=held)
    hours = [] if window is None else [Window.parse(window)]
    now = _now()
    if reason := _reason(run, hours, now):
        run.say(f"nothing was done: {reason}")
        run.ci.notice(f"nothing was done: {reason}")
        run.show(skipped(reason), [])
        return
    for each in hours:
        run.end_within(each.remaining(now), named=f"the window {each}")
    report = warm(
        [(target.ref, target.selection) for target in chosen],
        locks=held,
        cache=run.cache_to_fill(),
        upstream=run.upstream,
        step=run.step,
        telling=lambda ref: _telling(run, ref),
    )
    run.show(report, [pinned(each.ref, each.commit) for each in report.snapshots])


def _now() -> datetime:
    return datetime.now(UTC)


def _reason(run: Run, hours: list[Window], now: datetime) -> str:
    """Why nothing is to be done, or nothing."""
    if run.config.mode is Mode.AUTO and not run.may_save:
        return run.job.why
    return "".join(closed(each, now) for each in hours)


@contextmanager
def _telling(run: Run, ref: ModelRef) -> Iterator[Callable[[FetchReport], None]]:
    with run.telling(ref) as tell:

        def told(report: FetchReport) -> None:
            tell(report)
            run.say(fetched(report))

        yield told
