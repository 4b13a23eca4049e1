"""The only module that puts reports into words for people; each function yields lines, for stdout unless it says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ci_modelcache.cli.shown import Row
    from ci_modelcache.demo.demonstrate import DemoReport
    from ci_modelcache.verbs.auth import AuthReport
    from ci_modelcache.verbs.doctor import DoctorReport
    from ci_modelcache.verbs.export import ExportReport
    from ci_modelcache.verbs.fetch import FetchReport
    from ci_modelcache.verbs.inspect import SnapshotInfo, StoredSnapshot
    from ci_modelcache.verbs.lock import LockReport
    from ci_modelcache.verbs.presign import PresignReport
    from ci_modelcache.verbs.replicate import ReplicateReport
    from ci_modelcache.verbs.restore import RestoreReport
    from ci_modelcache.verbs.save import SaveReport
    from ci_modelcache.verbs.verify import VerifyReport

_SHORT = 12
"""Digits of a commit that people are shown."""
_SOME = 5
"""Names that are listed before the rest is only counted."""
_WORD = {
    "lock": "the lock",
    "authority": "the Hub",
    "store": "the store",
    "local": "an earlier restore",
    "mirror": "a mirror, as the Hub could not be asked",
}


def columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """*rows* of cells below each other, two spaces between columns."""
    table = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def count(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(names: Sequence[str]) -> str:
    """The first few *names*, and how many there are more."""
    rest = len(names) - _SOME
    return ", ".join(names[:_SOME]) + (f" and {rest} more" if rest > 0 else "")


def pinned(ref: str, commit: str) -> str:
    """*ref* with its revision replaced by *commit*: what to write to get exactly this again."""
    return f"{ref.rpartition('@')[0]}@{commit}"


def _shares(sources: Mapping[str, int]) -> str:
    """``https://a (71 %), https://b (29 %)``; a single one alone."""
    total = sum(sources.values())
    if len(sources) < 2 or not total:  # noqa: PLR2004  # one has no share
        return ", ".join(sources)
    most = sorted(sources.items(), key=lambda item: -item[1])
    return ", ".join(f"{url} ({size / total:.0%})".replace("%", " %") for url, size in most)


def _nearer(report: RestoreReport) -> str:
    """The source, and how much of it did not have to come from there."""
    parts = [(report.bytes_from_tier, "the tier"), *((size, url) for url, size in report.replicas.items())]
    told = ", ".join(f"{format_bytes(size)} of it from {where}" for size, where in parts if size)
    return f"{report.source} ({told})" if told else report.source


def restored(report: RestoreReport) -> Iterator[str]:
    """What `restore` did, for stderr: its stdout is the path."""
    how = {
        "local": "complete already",
        "hit": f"restored from {_nearer(report)}",
        "miss": f"fetched from {_shares(report.mirrors) or report.source}"
        + (" and saved to the store" if report.saved else ""),
    }[report.result]
    what = f"{count(report.files, 'file')}, {format_bytes(report.size)}, in {report.seconds:.1f} s"
    whose = _WORD.get(report.anchor, report.anchor)
    yield f"{report.ref}: {how}: {what}; commit {report.commit[:_SHORT]} according to {whose}"
    if report.stale:
        yield "  the Hub could not be asked: that commit may be an old one"
    if report.replaced:
        was = "was" if len(report.replaced) == 1 else "were"
        yield f"  {count(len(report.replaced), 'file')} here had other content, and {was} replaced: {some(report.replaced)}"
    if report.mended:
        yield f"  the store's copy was missing or wrong, and taken from upstream: {some(report.mended)}"
    if report.extra and report.pruned:
        yield f"  removed {count(len(report.extra), 'file')} that the model does not have: {some(report.extra)}"
    elif report.extra:
        yield f"  {count(len(report.extra), 'file')} here that the model does not have: {some(report.extra)}"
        yield "  --prune-extra removes such files"


def fetched(report: FetchReport) -> str:
    """What `fetch` did, for stderr: its stdout is the pinned reference."""
    how = (
        "in the store already"
        if report.result == "hit"
        else f"fetched from {_shares(report.mirrors) or report.source} into {report.store}"
    )
    what = (
        f"{count(report.files, 'file')}, {format_bytes(report.size)}, {format_bytes(report.bytes_downloaded)} of it new"
    )
    return f"{report.ref}: {how}: {what}, in {report.seconds:.1f} s"


def saved(report: SaveReport) -> str:
    """What `save` did, for stderr: its stdout is the pinned reference."""
    what = (
        f"{count(report.files, 'file')}, {format_bytes(report.size)}, {format_bytes(report.bytes_uploaded)} of it new"
    )
    return f"{report.ref}: saved to {report.store}: {what}, in {report.seconds:.1f} s"


def exported(report: ExportReport) -> str:
    """What `export` wrote, for stderr: its stdout is the digest of the archive, or the archive."""
    what = f"{count(len(report.models), 'model')}, {count(report.files, 'file')}, {format_bytes(report.size)}"
    where = "stdout" if report.path == "-" else report.path
    if len(report.written) > 1:
        where += f", in {len(report.written)} parts"
    if report.left_out:
        what += f", {count(report.left_out, 'file')} left out"
    return f"exported to {where}: {what}, sha256 {report.sha256}, in {report.seconds:.1f} s"


def presigned(report: PresignReport) -> str:
    """What `presign` made, for stderr: its stdout is the list of URLs, or the path of it."""
    models, objects = count(len(report.models), "model"), count(report.objects, "object")
    return f"signed URLs of {objects} ({format_bytes(report.size)}) for {models}, until {report.expires}: whoever has them can read these; keep them secret"


def locked(report: LockReport) -> Iterator[str]:
    """What `lock` wrote."""
    yield from columns(
        (model.change, model.ref, model.commit[:_SHORT], count(model.files, "file"), format_bytes(model.size))
        for model in report.models
    )
    for name in report.removed:
        yield f"removed  {name}"


def listed(snapshots: Sequence[StoredSnapshot]) -> Iterator[str]:
    """The snapshots of a store."""
    yield from columns(
        (
            one.repo if one.type == "model" else f"{one.type}:{one.repo}",
            ",".join(one.revisions) or "-",
            one.commit[:_SHORT],
            "all" if one.selection == "all" else f"part {one.selection}",
            count(one.files, "file"),
            format_bytes(one.size),
            f"BROKEN: {one.problem}" if one.problem else "",
        )
        for one in snapshots
    )


def described(info: SnapshotInfo) -> Iterator[str]:
    """One snapshot and its files."""
    yield from columns(
        [
            ("model", info.ref),
            ("commit", info.commit),
            ("revisions", ", ".join(info.revisions) or "-"),
            ("selection", info.selection),
            ("manifest", info.manifest),
            ("digest", info.digest),
            ("size", f"{format_bytes(info.size)} in {count(len(info.files), 'file')}"),
            *((f"from {key}", value) for key, value in sorted(info.provenance.items())),
        ]
    )
    yield ""
    yield from columns((file.sha256.hex, format_bytes(file.size), file.path) for file in info.files)


def verified(report: VerifyReport) -> Iterator[str]:
    """What `verify` found, and what became of it."""
    for problem in report.problems:
        yield ": ".join(filter(None, (problem.kind, problem.snapshot, problem.what, problem.why)))
        if problem.repaired:
            yield f"  repaired from {problem.repaired}"
        elif problem.unrepaired:
            yield f"  not repaired: {problem.unrepaired}"
    read = (
        f"{count(report.snapshots, 'snapshot')}, {count(report.blobs, 'blob')}, {format_bytes(report.bytes_read)} read"
    )
    found = f"{count(len(report.problems), 'problem')}" if report.problems else "all as promised"
    mended = f", {report.repaired} of them repaired" if report.repaired else ""
    yield f"{report.store}: {read} in {report.seconds:.1f} s: {found}{mended}"
    if report.objects:
        unnamed = f"{report.unnamed} of them ({format_bytes(report.bytes_unnamed)}) needed by nothing"
        strange = f"; {report.unknown_objects} of a kind that this version does not know" if report.unknown else ""
        yield f"{count(report.objects, 'object')}, {format_bytes(report.bytes_stored)}: {unnamed}{strange}"
    if report.round:
        yield f"round {report.round} of reading the whole store is at {report.covered:.0%}".replace("%", " %")


def replicated(report: ReplicateReport) -> Iterator[str]:
    """What `replicate` copied, and what it could not."""
    for one in report.copied:
        part = "" if one.selection == "all" else f" (selection {one.selection})"
        yield f"copied: {one.ref}{part}: {count(one.files, 'file')}, {format_bytes(one.size)}, {format_bytes(one.bytes_copied)} of it new"
    for failure in report.failed:
        yield f"failed: {failure.ref}: {failure.why}"
    told = f"{count(report.snapshots, 'snapshot')}, {report.present} of them there already, {count(len(report.copied), 'snapshot')} copied"
    more = f", {count(len(report.failed), 'failure')}" if report.failed else ""
    moved = f"{format_bytes(report.bytes_copied)}, {count(report.heads, 'branch or tag name')}"
    pins = f", {count(report.pins, 'pin')}" if report.pins else ""
    yield f"{report.source} to {report.destination}: {told}{more}; {moved}{pins}, in {report.seconds:.1f} s"


def examined(report: DoctorReport) -> Iterator[str]:
    """What `doctor` saw."""
    for check in report.checks:
        yield f"{check.status:8} {check.name}: {check.detail}"
        if check.hint:
            yield f"{'':8}   hint: {check.hint}"


def settings(shown: Iterable[Row]) -> Iterator[str]:
    """Every setting with its value and origin."""
    rows = [("SETTING", "VALUE", "FROM")]
    for row in shown:
        first, *more = row.text.split("\n")
        rows += [(row.name, first, row.origin), *(("", line, "") for line in more)]
    yield from columns(rows)


def demonstrated(report: DemoReport) -> Iterator[str]:
    """What the demonstration showed."""
    yield f"{report.model} from a Hub on this machine ({report.hub}) and its mirror ({report.mirror}), into {report.store}"
    yield "what went wrong on purpose:"
    for fault in report.faults:
        yield f"  {fault}"
    yield "what was found out, and mended:"
    for warning in sorted({warning for step in report.steps for warning in step.report.warnings}):
        yield f"  {warning}"
    yield "what happened:"
    yield from columns(
        (
            f"  {step.what}",
            step.result,
            count(step.report.files, "file"),
            format_bytes(step.report.size),
            f"{step.report.seconds:.2f} s",
            count(step.requests, "request"),
            f"{format_bytes(step.received)} from Hub and mirror",
        )
        for step in report.steps
    )
    yield "every file was proven by its digest before it appeared at its place"


def authenticated(report: AuthReport) -> Iterator[str]:
    """The hosts that have tokens, below each other, and how these are kept."""
    rows = [("host", "provider", "from", "valid until", "on disk")]
    for one in report.hosts:
        kept = "-" if not one.kept else "encrypted" if one.readable else "with another key"
        rows.append((one.host, one.provider, one.origin, one.until or "-", kept))
    yield from columns(rows) if report.hosts else ["no host has a token"]
    yield f"tokens that outlast a run: {report.protection}"
