"""``ci-modelcache import``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.import_words import imported, kept
from ci_modelcache.cli.inlets import inlet_of, part_of
from ci_modelcache.cli.reports import pinned
from ci_modelcache.transfer.inlet import PartsInlet
from ci_modelcache.verbs.import_archive import ImportOptions, import_archive
from ci_modelcache.verbs.split import StagedReport, unstage

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "import",
    examples=(
        ("everything in an archive of ci-modelcache export", "ci-modelcache import models.tar"),
        ("its parts, which lie beside each other", "ci-modelcache import models.tar.000"),
        ("one part, when each is on a medium of its own", "ci-modelcache import /mnt/models.tar --part 7"),
        ("an object, in any bucket that can be read", "ci-modelcache import s3://backups/models.tar"),
        ("through a pipe", "ssh other ci-modelcache export org/name -o - | ci-modelcache import -"),
    ),
)
@click.argument("archive")
@click.option(
    "--part",
    type=click.IntRange(0, 999),
    metavar="N",
    help="Keep only part N of a split archive, proven by its sums; the last one that was missing imports all.",
)
@click.option(
    "--revisions/--no-revisions",
    default=True,
    show_default=True,
    help="Make known to the store which commits the branches and tags in the archive mean.",
)
def command(run: Run, archive: str, *, part: int | None, revisions: bool) -> None:
    """
    Put the models of an archive into the store.

    ARCHIVE is a file that ci-modelcache export wrote, in either format, packed with zstd or not; the first part of a split one; an object
    in a bucket; or - for stdin. Every byte is proven by the manifests in it, and a model appears whole or not at all:
    exit code 13 says that the archive is not as it was written. The models are printed as REFs of their commits.
    """
    options = ImportOptions(revisions=revisions)
    source = inlet_of(archive, run) if part is None else part_of(archive, part, run)
    if isinstance(source, StagedReport):
        run.say(kept(source))
        run.show(source, [])
        return
    report = import_archive(source, cache=run.cache_to_fill(), step=run.step, options=options)
    if part is not None and isinstance(source, PartsInlet):
        unstage(source)
    for warning in report.warnings:
        run.warn(warning)
    run.say(imported(report))
    run.show(report, [pinned(model.ref, model.commit) for model in report.models])
