"""``ci-modelcache restore``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.from_urls import reading_urls
from ci_modelcache.cli.naming import locking, naming, selecting
from ci_modelcache.cli.reports import pinned, restored
from ci_modelcache.cli.targets import Asked, Target, folders, locks, naming_file, targets
from ci_modelcache.cli.telling import loading_from
from ci_modelcache.errors import ConfigError, SnapshotNotFound
from ci_modelcache.settings import OfflineEnv, variable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ci_modelcache.cli.run import Run
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.verbs.restore import RestoreReport


@verb(
    "restore",
    settings=("lock-file", "normalize", "hub-cache", "revision-ttl", "offline-env", "tier"),
    examples=(
        ("into the Hugging Face cache, where transformers finds it", "ci-modelcache restore org/name@v1.2"),
        ("into a folder, for a Dockerfile", "ci-modelcache restore org/name --to /models/name"),
        ("exactly what modelcache.lock says, or fail", "ci-modelcache restore --locked"),
        ("is it there?", "ci-modelcache restore org/name@v1.2 --lookup-only"),
        ("only what the store has; exit code 10 is a miss", "ci-modelcache restore org/name --fail-on-miss"),
        ("some files alone", "ci-modelcache restore org/name --include '*.safetensors' --include '*.json'"),
        ("in a build that has no credentials", "ci-modelcache restore --from-urls /run/secrets/urls --to /models"),
    ),
)
@naming
@click.option(
    "--to",
    metavar="DIR",
    type=click.Path(),
    envvar=variable("to"),
    help="Restore into DIR; several models into DIR/ORG/NAME.",
)
@locking
@click.option(
    "--force-download", is_flag=True, help="Fetch everything again, and replace what is here and in the store."
)
@click.option(
    "--fail-on-miss",
    is_flag=True,
    envvar=variable("fail-on-miss"),
    help="Exit with 10 instead of fetching what the store lacks.",
)
@click.option(
    "--lookup-only",
    is_flag=True,
    envvar=variable("lookup-only"),
    help="Only say whether the store has it: hit or miss.",
)
@click.option(
    "--from-urls",
    metavar="FILE",
    type=click.Path(),
    envvar=variable("from-urls"),
    help="Read the store by the URLs that presign wrote into FILE: no credentials are needed, and --store does not count.",
)
@click.option("--prune-extra", is_flag=True, help="Remove files at the destination that the model does not have.")
@selecting
def command(  # noqa: PLR0913  # one for each option
    run: Run,
    to: str | None,
    *,
    locked: bool | None,
    force_download: bool,
    fail_on_miss: bool,
    lookup_only: bool,
    from_urls: str | None,
    prune_extra: bool,
    **given: Any,  # noqa: ANN401  # click's
) -> None:
    """
    Put models in place, verified, from the store or the Hub.

    REF is [dataset:|space:]ORG/NAME[@REVISION]. Without one, all models of modelcache.lock are meant, or where there is none
    those of modelcache.toml (with --from-urls: those in FILE). The path of each is printed. What is complete already is only checked.
    """
    if to == "":
        msg = "--to names no folder"
        raise ConfigError(msg, hint="an unset variable makes it empty")
    if force_download:
        _refuse_with_force({"--fail-on-miss": fail_on_miss, "--lookup-only": lookup_only, "--from-urls": from_urls})
    run.forced, run.trusting = force_download, True
    asked, named = Asked(**given), bool(given["refs"])
    run.ci.named_in = naming_file(run.config, locked=locked, named=named)
    held = locks(run.config, locked=locked, named=named)
    listed = () if from_urls is None else reading_urls(run, from_urls, locked=bool(held))
    if listed and not held:
        run.ci.named_in = ()
    chosen = targets(asked, run.config, locks=held, listed=listed)
    if lookup_only:
        _look_up(run, chosen, held, fail_on_miss=fail_on_miss)
        return
    places = folders(chosen, to, named=len(asked.refs))
    how = {"locks": held, "fail_on_miss": fail_on_miss, "prune_extra": prune_extra, "force": force_download}
    reports = list(_restore(run, zip(chosen, places, strict=True), **how))
    if run.config.offline_env is OfflineEnv.AUTO and to is None:
        run.ci.environment.update(loading_from(run.config.hub_cache))
    run.show({"snapshots": reports}, [report.path for report in reports])


def _restore(
    run: Run,
    chosen: Iterable[tuple[Target, Path | None]],
    **how: Any,  # noqa: ANN401  # `RestoreOptions` knows
) -> Iterator[RestoreReport]:
    """Restore each of *chosen* into its folder, or for None into the Hub cache."""
    from ci_modelcache.verbs.restore import MISS, restore_by  # noqa: PLC0415  # `--help` needs no verb
    from ci_modelcache.verbs.wanted import Means, RestoreOptions  # noqa: PLC0415  # as above

    means = Means(run.host, cache=functools.cache(run.cache), upstream=lambda: run.upstream)
    for target, folder in chosen:
        options = RestoreOptions(
            selection=target.selection,
            save=run.may_save,
            revision_ttl=run.config.revision_ttl,
            near=run.near(),
            **how,
        )
        layout = run.layout(target.ref, folder)
        with run.telling(target.ref) as tell:
            report = restore_by(target.ref, layout, means=means, step=run.step, options=options)
            tell(report)
            if report.result == MISS and not run.may_save:
                run.ci.notice(f"{report.ref} was fetched and is not saved: {run.why_not_saved}")
        for line in restored(report):
            run.say(line)
        yield report


def _refuse_with_force(given: Mapping[str, object]) -> None:
    """Raise `ConfigError` for an option that is *given* and makes no sense when everything is fetched again."""
    for option in (name for name, value in given.items() if value):
        forbids = "is of what the store has" if option == "--from-urls" else "forbids to fetch anything"
        msg = f"--force-download fetches everything, and {option} {forbids}"
        raise ConfigError(msg, hint="give one of the two")


def _look_up(run: Run, chosen: Sequence[Target], held: Sequence[Lock], *, fail_on_miss: bool) -> None:
    """Tell of each of *chosen* whether the store has it; raises `SnapshotNotFound` for a miss if *fail_on_miss*."""
    from ci_modelcache.verbs.lookup import MISS, LookupReport, lookup  # noqa: PLC0415  # a restore needs none of it

    cache, reports = run.cache(), list[LookupReport]()
    for target in chosen:
        with run.telling(target.ref) as tell:
            report = lookup(
                target.ref,
                selection=target.selection,
                locks=held,
                cache=cache,
                upstream=run.upstream,
                step=run.step,
                revision_ttl=run.config.revision_ttl,
            )
            tell(report)
        reports.append(report)
    missing = [report for report in reports if report.result == MISS]
    if missing and fail_on_miss:
        msg = f"{cache.url} does not hold {', '.join(report.ref for report in missing)}"
        raise SnapshotNotFound(msg, hint="fill it with ci-modelcache fetch or warm")
    run.show({"snapshots": reports}, [f"{report.result} {pinned(report.ref, report.commit)}" for report in reports])
