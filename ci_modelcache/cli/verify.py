"""``ci-modelcache verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from ci_modelcache.cache.inventory import is_store
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.replicas import USELESS
from ci_modelcache.cli.changing import store_to_change
from ci_modelcache.cli.command import verb
from ci_modelcache.cli.opening import open_named
from ci_modelcache.cli.reports import verified
from ci_modelcache.cli.targets import stored
from ci_modelcache.errors import ConfigError
from ci_modelcache.model.share import parse_share
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.verbs.givers import FolderGiver, StoreGiver, TierGiver
from ci_modelcache.verbs.mend import Mender
from ci_modelcache.verbs.scrub import ScrubOptions, scrub
from ci_modelcache.verbs.verify import VerifyReport, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.cli.run import Run
    from ci_modelcache.verbs.givers import Giver


@frozen
class _Asked:
    """The command line."""

    refs: tuple[str, ...]
    everything: bool
    structure: bool
    sample: str | None
    repair: bool
    sources: tuple[str, ...]

    def __attrs_post_init__(self) -> None:
        """Raise `ConfigError` for what makes no sense together."""
        for option, given in (("--all", self.everything), ("--sample", self.sample is not None)):
            if given and self.refs:
                msg = f"{option} is about the whole store, and models are named"
                raise ConfigError(msg, hint="leave one of the two out")
        if self.sample is not None and (self.everything or self.structure):
            msg = "--sample looks at the structure of the whole store and reads some of its bytes, which contradicts --all and --structure"
            raise ConfigError(msg, hint="give one of the three")
        if self.sources and not self.repair:
            msg = "--from names where right bytes may be had, and nothing is to be repaired"
            raise ConfigError(msg, hint="give --repair, too")


@verb(
    "verify",
    settings=("tier",),
    examples=(
        ("every snapshot, byte by byte", "ci-modelcache verify --store s3://bucket/models"),
        ("one model", "ci-modelcache verify org/name@main"),
        ("everything that lies in the store, garbage too", "ci-modelcache verify --all"),
        ("every night another twentieth, and the structure", "ci-modelcache verify --sample 5%"),
        ("in seconds: names and lengths alone", "ci-modelcache verify --structure"),
        ("and put right what is wrong", "ci-modelcache verify --repair --from s3://replica/models"),
    ),
)
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--all", "everything", is_flag=True, help="Look at every object, whether or not a model needs it.")
@click.option("--structure", is_flag=True, help="Look at names, documents and lengths only; read no files.")
@click.option(
    "--sample",
    metavar="PERCENT",
    help="As --all, but read only so much of the bytes, from where the last sample ended.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Put right what is missing or wrong: from --from, the tier, the replicas, or the Hub and its mirrors.",
)
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="STORE|DIR",
    help="Where right bytes may be had for --repair: another store, or a folder with files of models; may be given several times.",
)
@click.pass_context
def command(ctx: click.Context, run: Run, /, refs: tuple[str, ...], **given: Any) -> None:  # noqa: ANN401  # click's
    """
    Read stored models again and prove every byte.

    Without REF that is every model of the store. Exit code 13 says that something is missing or wrong still, and the output what.
    """
    asked = _Asked(refs, **given)
    cache = store_to_change(run) if asked.repair else run.cache_to_see()
    menders = (_mender(asked, cache, run),) if asked.repair else ()
    report = _verified(asked, cache, menders, run)
    run.show(report, verified(report))
    ctx.exit(report.exit_code)


def _verified(asked: _Asked, cache: ModelCache, menders: tuple[Mender, ...], run: Run) -> VerifyReport:
    if asked.everything or asked.sample is not None or (asked.structure and not asked.refs):
        share = 1.0 if asked.sample is None else _share(asked.sample)
        options = ScrubOptions(
            content=not asked.structure, share=share, sample=asked.sample is not None, shared=run.may_save
        )
        return scrub(cache, step=run.step, options=options, menders=menders)
    snapshots = stored(asked.refs, cache=cache, host=run.nobody)
    # A name that the store does not know fails now, not after hours of reading what the others mean.
    chosen = tuple(snapshots) if asked.refs else snapshots
    return verify(chosen, cache=cache, step=run.step, content=not asked.structure, menders=menders)


def _share(text: str) -> float:
    share = parse_share(text)
    if share == 0:
        msg = f"a sample of {text} reads nothing"
        raise ConfigError(msg, hint="write more than 0%; for the structure alone --structure")
    return share


def _mender(asked: _Asked, cache: ModelCache, run: Run) -> Mender:
    """Who mends *cache*, with the help of whom."""
    upstream = (
        () if run.config.offline else (Mirrors.of(run.upstream, retry=run.retry, connections=run.config.workers),)
    )
    return Mender(cache, tuple(_givers(asked, run)), upstream=upstream, step=run.step)


def _givers(asked: _Asked, run: Run) -> Iterator[Giver]:
    for source in asked.sources:
        folder = Path(source)
        if "://" not in source and folder.is_dir() and not is_store(folder):
            yield FolderGiver(folder)
        else:
            yield _replica(source, run)
    for tier in run.near().tiers:
        yield TierGiver(tier, retry=run.retry)
    for url in run.config.replicas:
        try:
            yield _replica(url, run)
        except USELESS as error:
            run.warn(f"the replica {url} is left out: {error}")


def _replica(url: str, run: Run) -> StoreGiver:
    replica = ModelCache(run.paced(open_named(url, run, create=False, needed=True)), retry=run.retry)
    return StoreGiver(replica, retry=run.retry)
