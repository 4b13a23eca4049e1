"""The only module that makes a streamed build context of what the command line says; two commands give one away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import evolve, frozen

from ci_modelcache.cli.outcomes import outcome_of_export
from ci_modelcache.cli.reports import count
from ci_modelcache.cli.run import Run
from ci_modelcache.cli.targets import folders
from ci_modelcache.docker.dockerfile import CONTEXT
from ci_modelcache.docker.ignore import Rules
from ci_modelcache.docker.labels import ImageLayout
from ci_modelcache.docker.streamed import StreamReport, check_dockerfile, streamed
from ci_modelcache.docker.supply import Supplied, Supply
from ci_modelcache.docker.tree import PlacedModel, members
from ci_modelcache.errors import DeadlineExceeded
from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.verbs.archive import Archive
from ci_modelcache.verbs.export import Exported, described

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci_modelcache.cli.targets import Target
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.transfer.outlet import Outlet


def image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what goes where in an image."""
    to = click.option(
        "--to", default="/models", metavar="DIR", help="The folder for the models in the image; default: /models."
    )
    layout = click.option(
        "--layout",
        type=click.Choice([layout.value for layout in ImageLayout]),
        default=ImageLayout.PLAIN.value,
        help="plain (default): DIR/ORG/NAME; hub: DIR is the cache in which libraries find models by name.",
    )
    file = click.option(
        "-f", "--file", type=click.Path(path_type=Path), metavar="FILE", help="The Dockerfile; default: DIR/Dockerfile."
    )
    return file(to(layout(function)))


@frozen
class Prepared:
    """A context that can be given away: its *archive*, and the *models* in it."""

    run: Run
    archive: Archive
    report: StreamReport
    models: tuple[PlacedModel, ...]

    def write(self, outlet: Outlet) -> StreamReport:
        """Give it to *outlet*."""
        step = self.run.step
        started = step.clock()
        try:
            digest = self.archive.write(outlet)
        except DeadlineExceeded as error:
            error.hint = "raise --deadline: a context is streamed anew each time"
            raise
        report = evolve(self.report, path=outlet.name, sha256=digest.hex, seconds=step.clock() - started)
        for model in report.models:
            if all(model.ref != fetched.ref for fetched in report.fetched):
                self.run.ci.add(outcome_of_export(model, report, store=self.run.cache().url))
        return report


def stream(
    run: Run,
    folder: Path,
    dockerfile: Path,
    chosen: Sequence[Target],
    locks: tuple[Lock, ...],
    *,
    to: str,
    layout: ImageLayout,
) -> Prepared:
    """The context of *folder* with the *chosen* models below *to*; what the store lacks of them is in it afterwards."""
    check_dockerfile(folder, dockerfile)
    rules = Rules.of(folder, dockerfile)
    if layout is ImageLayout.PLAIN:
        rules.require(f"{CONTEXT}{place}" for place in folders(chosen, to, named=0))
    tiers = run.near(run.config.state / "tier").tiers
    cache = run.cache()
    supply = Supply(cache, run.step, run.may_save, run.why_not_saved, run.config.revision_ttl, tiers)
    supplied = list[Supplied]()
    for target in chosen:
        with run.telling(target.ref) as tell:
            supplied.append(supply.find(target.ref, target.selection, locks=locks, upstream=run.upstream))
            for report in supplied[-1].fetched:
                tell(report)
    models = tuple(PlacedModel(one.ref, one.manifest) for one in supplied)
    epoch = run.config.source_date_epoch
    parts = streamed(
        members(models, to=to, kind=layout, mtime=epoch), folder, dockerfile=dockerfile, rules=rules, mtime=epoch
    )
    pinned = [file for one in supplied for file in one.manifest.files] if locks else []
    archive = Archive(parts, cache=cache, step=run.step, doing="streaming the context", tiers=tiers, pinned=pinned)
    said = StreamReport.of(
        parts,
        size=archive.size,
        models=tuple(described(Exported(one.ref, one.manifest)) for one in supplied),
        fetched=tuple(report for one in supplied for report in one.fetched),
    )
    return Prepared(run, archive, said, models)


def said_of(report: StreamReport) -> str:
    """What was streamed, for stderr."""
    size = format_bytes(report.size)
    what = f"{count(len(report.models), 'model')} and {count(report.context_files, 'file')} of the context"
    return f"{report.path}: {what}, {size}, in {report.seconds:.1f} s"
