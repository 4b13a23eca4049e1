"""The only module that knows which outcome a report stands for."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Protocol

from attrs import evolve

from ci_modelcache.ci.outcome import FETCHED, HIT, LOCAL, PARTIAL, SAVED, ModelOutcome
from ci_modelcache.cli.reports import some
from ci_modelcache.verbs.fetch import FetchReport
from ci_modelcache.verbs.lookup import LookupReport
from ci_modelcache.verbs.restore import RestoreReport
from ci_modelcache.verbs.save import SaveReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.docker.streamed import StreamReport
    from ci_modelcache.verbs.export import ExportedModel, ExportReport

__all__ = ["FetchReport", "Report", "RestoreReport", "outcome_of"]

Report = RestoreReport | FetchReport | SaveReport | LookupReport
"""What a verb says of one model."""

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


@singledispatch
def outcome_of(report: object) -> ModelOutcome:
    """What became of the model of *report*, which a verb has returned."""
    msg = f"no outcome is made of {type(report).__name__}"
    raise TypeError(msg)


@outcome_of.register
def _(report: RestoreReport) -> ModelOutcome:
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


@outcome_of.register
def _(report: FetchReport) -> ModelOutcome:
    return evolve(
        _outcome(report, HIT if report.result == "hit" else FETCHED, seconds=report.seconds),
        source=report.source,
        verified=_VERIFIED[report.anchor],
        received=report.bytes_downloaded,
        mirrors=report.mirrors,
        warnings=report.warnings,
    )


@outcome_of.register
def _(report: SaveReport) -> ModelOutcome:
    return evolve(_outcome(report, SAVED, seconds=report.seconds), source=report.store)


@outcome_of.register
def _(report: LookupReport) -> ModelOutcome:
    known = _VERIFIED[report.anchor] if report.files else ""
    return evolve(_outcome(report, report.result, seconds=report.seconds), source=report.store, verified=known)


def outcome_of_export(model: ExportedModel, report: ExportReport | StreamReport, *, store: str) -> ModelOutcome:
    """What became of *model*, which came from *store* into the archive of *report*."""
    return evolve(_outcome(model, HIT, seconds=report.seconds), path=report.path, source=store)
