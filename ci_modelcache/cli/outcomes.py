"""The only module that knows which outcome a report stands for."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from ci_modelcache.ci.outcome import FETCHED, HIT, LOCAL, PARTIAL, SAVED, ModelOutcome
from ci_modelcache.cli.reports import some
from ci_modelcache.verbs.fetch import FetchReport
from ci_modelcache.verbs.lookup import LookupReport
from ci_modelcache.verbs.restore import RestoreReport
from ci_modelcache.verbs.save import SaveReport

if TYPE_CHECKING:
    from ci_modelcache.verbs.export import ExportedModel, ExportReport

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@singledispatch
def outcome_of(report: object) -> ModelOutcome:
    """What became of the model of *report*, which a verb has returned."""
    msg = f"no outcome is made of {type(report).__name__}"
    raise TypeError(msg)


@outcome_of.register
def _(report: RestoreReport) -> ModelOutcome:
    upstream = sum(report.mirrors.values())
    result = {"local": LOCAL, "hit": PARTIAL if upstream else HIT, "miss": FETCHED}[report.result]
    return ModelOutcome(
        report.ref,
        result,
        commit=report.commit,
        digest=report.digest,
        path=report.path,
        source=report.source,
        verified=_VERIFIED[report.anchor],
        files=report.files,
        size=report.size,
        received=report.bytes_downloaded,
        seconds=report.seconds,
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
    return ModelOutcome(
        report.ref,
        HIT if report.result == "hit" else FETCHED,
        commit=report.commit,
        digest=report.digest,
        source=report.source,
        verified=_VERIFIED[report.anchor],
        files=report.files,
        size=report.size,
        received=report.bytes_downloaded,
        seconds=report.seconds,
        mirrors=report.mirrors,
        warnings=report.warnings,
    )


@outcome_of.register
def _(report: SaveReport) -> ModelOutcome:
    return ModelOutcome(
        report.ref,
        SAVED,
        commit=report.commit,
        digest=report.digest,
        source=report.store,
        files=report.files,
        size=report.size,
        seconds=report.seconds,
    )


@outcome_of.register
def _(report: LookupReport) -> ModelOutcome:
    return ModelOutcome(
        report.ref,
        report.result,
        commit=report.commit,
        digest=report.digest,
        source=report.store,
        verified=_VERIFIED[report.anchor] if report.files else "",
        files=report.files,
        size=report.size,
        seconds=report.seconds,
    )


def outcome_of_export(model: ExportedModel, report: ExportReport, *, store: str) -> ModelOutcome:
    """What became of *model*, which came from *store* into the archive of *report*."""
    return ModelOutcome(
        model.ref,
        HIT,
        commit=model.commit,
        digest=model.digest,
        path=report.path,
        source=store,
        files=model.files,
        size=model.size,
        seconds=report.seconds,
    )
