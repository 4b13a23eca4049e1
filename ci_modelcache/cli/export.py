"""``ci-modelcache export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.inlets import inlet_of
from ci_modelcache.cli.naming import locking, naming, selecting
from ci_modelcache.cli.outcomes import outcome_of_export
from ci_modelcache.cli.outlets import outlet_of
from ci_modelcache.cli.reports import exported
from ci_modelcache.cli.targets import Asked, locks, naming_file, targets
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.size import parse_size
from ci_modelcache.settings import variable
from ci_modelcache.verbs.export import FORMATS, OCI, ExportOptions, export, held
from ci_modelcache.verbs.since import held_by

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "export",
    settings=("lock-file",),
    examples=(
        ("a model into a file", "ci-modelcache export org/name@v1.2 -o name.tar"),
        ("everything in modelcache.lock, or else in modelcache.toml", "ci-modelcache export -o models.tar"),
        (
            "compressed, in parts, into another bucket",
            "ci-modelcache export -o s3://backups/models.tar.zst --zstd --split 1900M",
        ),
        ("only what an earlier archive lacks", "ci-modelcache export -o tuesday.tar --since monday.tar"),
        (
            "for people without this tool",
            "ci-modelcache export org/name --format plain -o - | tar xf - && sha256sum -c SHA256SUMS",
        ),
    ),
)
@naming
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE|URL",
    envvar=variable("output"),
    help="The archive to write, in place of what is there: a file or s3://BUCKET/NAME; - is stdout.",
)
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default=OCI,
    show_default=True,
    envvar=variable("format"),
    help="What is in the archive; oci: an OCI image layout; plain: files for tar and sha256sum.",
)
@click.option(
    "--since",
    multiple=True,
    metavar="ARCHIVE|LOCK",
    envvar=variable("since"),
    help="Leave out the files that this archive has, or this modelcache.lock names; repeatable.",
)
@click.option(
    "--zstd",
    is_flag=True,
    envvar=variable("zstd"),
    help="Compress the archive; needs the extra zstd before Python 3.14.",
)
@click.option(
    "--split",
    metavar="SIZE",
    envvar=variable("split"),
    help="Cut it into parts of at most this, such as 1900M: NAME.000 and so on, and their sums in NAME.sha256s.",
)
@locking
@selecting
def command(
    run: Run,
    output: str,
    *,
    format: str,  # noqa: A002  # the flag's name
    since: tuple[str, ...],
    zstd: bool,
    split: str | None,
    locked: bool | None,
    **given: Any,  # noqa: ANN401  # click's
) -> None:
    """
    Write models from the store into one tar archive.

    The same models make the same bytes, every time and everywhere. Without REF all models of modelcache.lock are meant, or
    where there is none of modelcache.toml. Nobody but the store is asked: what it lacks is a miss (10), and fetch
    puts it there. An export that was killed goes on where it was when the same command runs again. SHA-256 and path of what was
    written are printed as sha256sum prints them, unless it goes to stdout itself. import reads it back.
    """
    outlet = outlet_of(output, split=None if split is None else parse_size(split), zstd=zstd, run=run)
    named = bool(given["refs"])
    run.ci.named_in = naming_file(run.config, locked=locked, named=named)
    held_to = locks(run.config, locked=locked, named=named)
    chosen = targets(Asked(**given), run.config, locks=held_to)
    without = frozenset[Digest]().union(*(held_by(inlet_of(each, run), step=run.step) for each in since))
    cache = run.cache_to_read()
    models = [held(each.ref, each.selection, locks=held_to, cache=cache, host=run.nobody) for each in chosen]
    report = export(models, outlet, cache=cache, step=run.step, options=ExportOptions(format, without))
    for model in report.models:
        run.ci.add(outcome_of_export(model, report, store=cache.url))
    run.say(exported(report))
    if report.written:
        run.show(report, [f"{each.sha256}  {each.name}" for each in report.written])
