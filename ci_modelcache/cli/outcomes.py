"""The only module that knows which outcome a report stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from attrs import evolve

from ci_modelcache.ci.outcome import FETCHED, HIT, LOCAL, PARTIAL, SAVED, ModelOutcome
from ci_modelcache.cli.reports import some

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.docker.streamed import StreamReport
    from ci_modelcache.verbs.export import ExportedModel, ExportReport
    from ci_modelcache.verbs.fetch import FetchReport
    from ci_modelcache.verbs.lookup import LookupReport
    from ci_modelcache.verbs.restore import RestoreReport
    from ci_modelcache.verbs.save import SaveReport

    Report = RestoreReport | FetchReport | SaveReport | LookupReport
    """What a verb says of one model."""

_BRINGING = frozenset({"RestoreReport", "FetchReport"})

_VERIFIED = {
    "lock": "modelcache.lock",
    "authority": "the Hub",
    "store": "the store's manifest",
    "local": "an earlier restore",
    "mirror": "a mirror",
}


class _Brought(Protocol):
    """What all reports of one model say, whatever was done with it."""

    @property
    def ref(self) -> str: ...
    @property
    def commit(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def files(self) -> int: ...
    @property
    def size(self) -> int: ...


def _outcome(report: _Brought, result: str, *, seconds: float) -> ModelOutcome:
    return ModelOutcome(
        report.ref,
        result,
        commit=report.commit,
        digest=report.digest,
        files=report.files,
        size=report.size,
        seconds=seconds,
    )


def is_bringing(report: Report) -> TypeGuard[RestoreReport | FetchReport]:
    """Whether *report* is of a verb that brings what was asked for."""
    return type(report).__name__ in _BRINGING


def outcome_of(report: Report) -> ModelOutcome:
    """What became of the model of *report*, which a verb has returned."""
    return _OUTCOMES[type(report).__name__](report)


def _of_restore(report: RestoreReport) -> ModelOutcome:
    result = {"local": LOCAL, "hit": PARTIAL if sum(report.mirrors.values()) else HIT, "miss": FETCHED}[report.result]
    return evolve(
        _outcome(report, result, seconds=report.seconds),
        path=report.path,
        source=report.source,
        verified=_VERIFIED[report.anchor],
        received=report.bytes_downloaded,
        mirrors=report.mirrors,
        running=report.runs_code,
        warnings=(*_worries(report), *report.warnings),
    )


def _worries(report: RestoreReport) -> Iterator[str]:
    """What the report tells in fields of its own, and a reader of the summary should see."""
    if report.stale:
        yield f"{report.ref}: the Hub could not be asked what it means now: the commit may be an old one"
    if report.mended:
        yield f"{report.ref}: the store's copy was missing or wrong, and taken from upstream: {some(report.mended)}"
    if report.replaced:
        yield f"{report.ref}: here with other content, and replaced: {some(report.replaced)}"


def _of_fetch(report: FetchReport) -> ModelOutcome:
    return evolve(
        _outcome(report, HIT if report.result == "hit" else FETCHED, seconds=report.seconds),
        source=report.source,
        verified=_VERIFIED[report.anchor],
        received=report.bytes_downloaded,
        mirrors=report.mirrors,
        warnings=report.warnings,
    )


def _of_save(report: SaveReport) -> ModelOutcome:
    return evolve(_outcome(report, SAVED, seconds=report.seconds), source=report.store)


def _of_lookup(report: LookupReport) -> ModelOutcome:
    known = _VERIFIED[report.anchor] if report.files else ""
    return evolve(_outcome(report, report.result, seconds=report.seconds), source=report.store, verified=known)


_OUTCOMES: dict[str, Callable[[Any], ModelOutcome]] = {
    "RestoreReport": _of_restore,
    "FetchReport": _of_fetch,
    "SaveReport": _of_save,
    "LookupReport": _of_lookup,
}
"""By the names of their classes: to import these would cost more than what most commands do."""


def outcome_of_export(model: ExportedModel, report: ExportReport | StreamReport, *, store: str) -> ModelOutcome:
    """What became of *model*, which came from *store* into the archive of *report*."""
    return evolve(_outcome(model, HIT, seconds=report.seconds), path=report.path, source=store)
