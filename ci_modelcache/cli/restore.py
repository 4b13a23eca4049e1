"""``ci-modelcache restore``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.reports import restored
from ci_modelcache.cli.targets import Asked, folders, locks, selecting, targets
from ci_modelcache.errors import ConfigError
from ci_modelcache.verbs.restore import RestoreReport, restore
from ci_modelcache.verbs.wanted import RestoreOptions

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run


@verb(
    "restore",
    settings=("lock-file", "normalize", "hub-cache", "revision-ttl"),
    examples=(
        ("into the Hugging Face cache, where transformers finds it", "ci-modelcache restore org/name@v1.2"),
        ("into a folder, for a Dockerfile", "ci-modelcache restore org/name --to /models/name"),
        ("exactly what modelcache.lock says, or fail", "ci-modelcache restore --locked"),
        ("only what the store has; exit code 10 is a miss", "ci-modelcache restore org/name --fail-on-miss"),
        ("some files alone", "ci-modelcache restore org/name --include '*.safetensors' --include '*.json'"),
    ),
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--to", metavar="DIR", type=click.Path(), help="Restore into DIR; several models into DIR/ORG/NAME.")
@click.option("--locked", is_flag=True, help="Accept only what modelcache.lock names.")
@click.option(
    "--force-download", is_flag=True, help="Fetch everything again, and replace what is here and in the store."
)
@click.option("--fail-on-miss", is_flag=True, help="Exit with 10 instead of fetching what the store lacks.")
@click.option("--prune-extra", is_flag=True, help="Remove files at the destination that the model does not have.")
@selecting
def command(
    run: Run,
    to: str | None,
    *,
    locked: bool,
    force_download: bool,
    fail_on_miss: bool,
    prune_extra: bool,
    **given: Any,  # noqa: ANN401  # click's
) -> None:
    """
    Put models in place, verified, from the store or the Hub.

    REF is [dataset:|space:]ORG/NAME[@REVISION]. Without one, all models of modelcache.toml are meant, or with
    --locked all of modelcache.lock. The path of each is printed. What is complete already is only checked.
    """
    if to == "":
        msg = "--to names no folder"
        raise ConfigError(msg, hint="an unset variable makes it empty")
    if force_download and fail_on_miss:
        msg = "--force-download fetches everything, and --fail-on-miss forbids to fetch anything"
        raise ConfigError(msg, hint="give one of the two")
    run.forced, run.trusting = force_download, True
    asked, held = Asked(**given), locks(run.config, locked=locked, check=not given["refs"])
    chosen = targets(asked, run.config, locks=held)
    cache, reports = run.cache(), list[RestoreReport]()
    for target, folder in zip(chosen, folders(chosen, to, named=len(asked.refs)), strict=True):
        options = RestoreOptions(
            selection=target.selection,
            locks=held,
            save=run.may_save,
            fail_on_miss=fail_on_miss,
            prune_extra=prune_extra,
            revision_ttl=run.config.revision_ttl,
            force=force_download,
        )
        layout = run.layout(target.ref, folder)
        with run.telling(target.ref) as tell:
            report = restore(target.ref, layout, cache=cache, upstream=run.upstream, step=run.step, options=options)
            tell(report)
        reports.append(report)
        for line in restored(reports[-1]):
            run.say(line)
    run.show({"snapshots": reports}, [report.path for report in reports])
