"""The only module that puts what prune, du, pins and the trash say into words for people; each function yields lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.fitting import fitted, width
from ci_modelcache.cli.reports import columns, count, pinned
from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci_modelcache.verbs.du import UseReport
    from ci_modelcache.verbs.keep import DroppedSnapshot, PinnedSnapshot
    from ci_modelcache.verbs.prune import PrunedSnapshot, PruneReport

_SHORT = 12
"""Digits of a commit that people are shown."""
_DAY = len("2026-11-21")
_WHY = {
    "pinned": "pinned",
    "locked": "in a lock",
    "young": "just published",
    "used": "used in --keep-days",
    "last": "in --keep-last",
    "unruled": "no rule against it",
    "unused": "no rule keeps it",
    "oversize": "over --max-size",
}


def pruned(report: PruneReport, *, all_of_them: bool) -> Iterator[str]:
    """The table of what goes, or went; with *all_of_them* also of what stays."""
    rows = [_row(one, "goes") for one in report.dropped]
    rows += [_row(one, "stays") for one in report.kept] if all_of_them else []
    if rows:
        yield from fitted([("MODEL", "PUBLISHED", "LAST USED", "SIZE", "FREED", "", "WHY"), *rows], width())


def _row(one: PrunedSnapshot, becomes: str) -> tuple[str, ...]:
    used = "-" if one.used is None else one.used[:_DAY]
    sizes = format_bytes(one.size), format_bytes(one.freed)
    return _name(one.ref, one.selection), one.published[:_DAY], used, *sizes, becomes, _WHY[one.why]


def pruning(report: PruneReport) -> Iterator[str]:
    """What `prune` did, or would do, for stderr."""
    dropped = f"{len(report.dropped)} of {count(len(report.dropped) + len(report.kept), 'snapshot')}"
    freed = f"{format_bytes(report.size - report.size_kept)} of {format_bytes(report.size)}"
    trash = f"{count(report.in_trash, 'snapshot')} in the trash"
    garbage = f"{format_bytes(report.announced)} in {count(report.announced_objects, 'object')}"
    waiting = f"{format_bytes(report.waiting)} wait for a later run"
    if report.applied:
        deleted = f"{format_bytes(report.deleted)} in {count(report.deleted_objects, 'object')}"
        yield f"{report.store}: dropped {dropped}, which hold {freed}; {trash}, {report.forgotten} forgotten"
        yield f"  garbage: {deleted} deleted now; {garbage} announced, to be deleted by a later run; {waiting}"
    else:
        yield f"{report.store}: would drop {dropped}, which hold {freed}; then {trash}, {report.forgotten} forgotten"
        yield f"  garbage: {garbage} would be announced, to be deleted by a later run; {waiting}"
        yield "  nothing was changed: --yes does it"


def used(report: UseReport) -> Iterator[str]:
    """Who uses how much."""
    rows = [("REPOSITORY", "SNAPSHOTS", "SIZE", "STORED", "ITS OWN", "LAST USED", "PINNED")]
    rows += [
        (
            one.repo if one.type == "model" else f"{one.type}:{one.repo}",
            str(one.snapshots),
            format_bytes(one.size),
            format_bytes(one.stored),
            format_bytes(one.own),
            "-" if one.used is None else one.used[:_DAY],
            str(one.pinned or "-"),
        )
        for one in report.repositories
    ]
    total = format_bytes(report.size), format_bytes(report.stored)
    yield from fitted([*rows, ("total", str(report.snapshots), *total, "", "", "")], width())
    yield (
        f"{report.store}: {format_bytes(report.total)} in {count(report.objects, 'object')}: "
        f"{format_bytes(report.named)} needed, {format_bytes(report.unnamed)} garbage "
        f"({format_bytes(report.condemned)} of it announced by a prune); {count(report.in_trash, 'snapshot')} in the trash"
    )


def pins(found: Sequence[PinnedSnapshot]) -> Iterator[str]:
    """The pins of a store."""
    yield from columns((_name(one.ref, one.selection), one.since[:_DAY], one.reason or "-") for one in found)


def trash(found: Sequence[DroppedSnapshot]) -> Iterator[str]:
    """What can be brought back."""
    yield from columns((_name(one.ref, one.selection), f"dropped {one.since[:_DAY]}") for one in found)


def _name(ref: str, selection: str) -> str:
    repo, _, commit = ref.rpartition("@")
    return pinned(f"{repo}@", commit[:_SHORT]) + ("" if selection == "all" else f" part {selection}")
