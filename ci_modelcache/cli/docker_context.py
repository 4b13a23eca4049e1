"""``ci-modelcache docker context``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.contexts import image_options, said_of, stream
from ci_modelcache.cli.naming import locking, naming, selecting
from ci_modelcache.cli.output import Stdout
from ci_modelcache.cli.reports import restored
from ci_modelcache.cli.targets import Asked, folders, locks, naming_file, targets
from ci_modelcache.docker.context import ContextFolder, ContextReport, ignored_by_git
from ci_modelcache.docker.dockerfile import CONTEXT, check_folder
from ci_modelcache.docker.ignore import Rules
from ci_modelcache.docker.labels import ImageLayout
from ci_modelcache.docker.tree import PlacedModel, Tree, members
from ci_modelcache.errors import ConfigError
from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.transfer.outlet import FileOutlet
from ci_modelcache.verbs.restore import RestoreReport, restore
from ci_modelcache.verbs.wanted import RestoreOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.cli.run import Run
    from ci_modelcache.cli.targets import Target
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.transfer.outlet import Outlet


@verb(
    "docker context",
    settings=("lock-file", "revision-ttl", "tier"),
    examples=(
        ("the models of modelcache.lock, for COPY modelcache/ /", "ci-modelcache docker context ."),
        ("without a copy on the disk", "ci-modelcache docker context --tar - | docker build -t app -"),
        ("for another builder", "ci-modelcache docker context --tar context.tar app"),
        ("some model", "ci-modelcache docker context app org/name@v1.2"),
    ),
)
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@naming
@click.option(
    "--tar",
    metavar="FILE",
    help="Write DIR, its Dockerfile and the models into one archive, in place of the models into DIR; - is stdout.",
)
@image_options
@locking
@selecting
def command(
    run: Run,
    folder: Path,
    *,
    tar: str | None,
    to: str,
    layout: str,
    locked: bool | None,
    **given: Any,  # noqa: ANN401  # click's
) -> None:
    """
    Put models into a build context, or stream it with them.

    They go into DIR/modelcache, whose tree is that of the image's root, so that COPY modelcache/ / makes a layer of them alone. Where
    the disk can, files are hard links to a folder of blobs (the tier). Models that are not wanted any more are
    removed from there; files that ci-modelcache did not put there are an error. A .dockerignore that would leave models out is one too.

    With --tar nothing is written to DIR. The archive has what .dockerignore leaves in, with the time 0 (or SOURCE_DATE_EPOCH) and the
    owner root, so that the same files make the same layers; what the store lacks is fetched into it first, where it may
    be written. The Dockerfile comes last: nobody builds an archive that was cut off.
    """
    file = given.pop("file")
    asked, named = Asked(**given), bool(given["refs"])
    run.ci.named_in = naming_file(run.config, locked=locked, named=named)
    held = locks(run.config, locked=locked, named=named)
    chosen = targets(asked, run.config, locks=held)
    dockerfile = folder / "Dockerfile" if file is None else file
    if tar is None:
        _put(run, folder, dockerfile, chosen, held, to=check_folder(to), layout=ImageLayout(layout))
        return
    outlet: Outlet = FileOutlet(Path(tar).absolute())
    if tar == "-":
        if run.as_json:
            msg = "--json prints the result on stdout, where the archive is to go"
            raise ConfigError(msg, hint="name a file: --tar FILE")
        outlet = Stdout()
    prepared = stream(run, folder, dockerfile, chosen, held, to=check_folder(to), layout=ImageLayout(layout))
    report = prepared.write(outlet)
    run.say(said_of(report))
    if tar != "-":
        run.show(report, [f"{report.sha256}  {report.path}"])


def _put(
    run: Run,
    folder: Path,
    dockerfile: Path,
    chosen: Sequence[Target],
    held: tuple[Lock, ...],
    *,
    to: str,
    layout: ImageLayout,
) -> None:
    """Restore into the folder of the context, and remove what is not wanted there any more."""
    if not folder.is_dir():
        msg = f"there is no folder {folder}"
        raise ConfigError(msg, hint="name the folder with the files of the image")
    context, rules = ContextFolder(folder, state=run.config.state), Rules.of(folder, dockerfile)
    context.check()
    epoch = run.config.source_date_epoch
    tree = Tree(context.root, to, layout, epoch)
    if layout is ImageLayout.PLAIN:
        folders(chosen, to, named=0)  # refuses two models in one folder
    _require_all(rules, tree, chosen, held)
    reports, wanted, cache = list[RestoreReport](), set[Path](), run.cache()
    for target in chosen:
        options = RestoreOptions(
            selection=target.selection,
            locks=held,
            save=run.may_save,
            revision_ttl=run.config.revision_ttl,
            near=run.near(run.config.state / "tier", linked=epoch == 0),
        )
        with run.telling(target.ref) as tell:
            report = restore(
                target.ref, tree.layout(target.ref), cache=cache, upstream=run.upstream, step=run.step, options=options
            )
            tell(report)
        reports.append(report)
        wanted |= set(tree.files_of(target.ref, Path(report.path), report.extra))
        for line in restored(report):
            run.say(line)
    removed = context.settle(wanted, mtime=epoch)
    rules.require(context.paths())
    run.say(_ways(reports, removed))
    if not ignored_by_git(folder.absolute()):
        run.say(f"add {CONTEXT}/ to .gitignore: models do not belong into git")
    run.show(ContextReport(str(context.root), tuple(reports), removed), [str(context.root)])


def _require_all(rules: Rules, tree: Tree, chosen: Sequence[Target], held: Sequence[Lock]) -> None:
    """Raise `ConfigError`, before anything is restored, when *rules* leave out a model, or of a locked one any file."""
    rules.require((CONTEXT, f"{CONTEXT}{tree.to}"))
    locked = tuple(
        PlacedModel(target.ref, lock.find(target.ref, target.selection).to_manifest())
        for lock in held
        for target in chosen
    )
    rules.require(part.member.path for part in members(locked, to=tree.to, kind=tree.kind, mtime=tree.mtime))


def _ways(reports: Sequence[RestoreReport], removed: Sequence[str]) -> str:
    """Which way the bytes came."""
    linked, copied, downloaded = (
        format_bytes(sum(getattr(report, f"bytes_{way}") for report in reports))
        for way in ("linked", "copied", "downloaded")
    )
    gone = f", {len(removed)} old files removed" if removed else ""
    return f"{CONTEXT}/: {linked} linked, {copied} copied, {downloaded} downloaded{gone}"
