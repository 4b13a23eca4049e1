"""The only module that opens stores: that of the settings and its replicas, and what a command line names; and decides what a job without credentials does without it."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.replicas import USELESS, ReplicatedCache
from ci_modelcache.config import Rank
from ci_modelcache.errors import AccessDenied
from ci_modelcache.settings import Mode
from ci_modelcache.stores.empty import EmptyStore
from ci_modelcache.stores.locations import open_store
from ci_modelcache.stores.protocol import OverNetwork
from ci_modelcache.stores.s3_account import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.cli.run import Run
    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.stores.s3_role import AssumedRole
    from ci_modelcache.transfer.retry import RetryPolicy

_log = logging.getLogger(__name__)

_TRIES = 2
"""Attempts of each question to a replica."""
_LEND = "give the build credentials: --secret id=aws,src=$HOME/.aws/credentials, and in the Dockerfile RUN --mount=type=secret,id=aws,target=/root/.aws/credentials, or the target of its AWS_SHARED_CREDENTIALS_FILE"


def open_configured(run: Run, *, create: bool) -> Store:
    """The store that the settings of *run* name, made if *create* and it is a folder; raises what `open_store` raises."""
    config = run.config
    default = config.origins["store"].rank is Rank.DEFAULT
    if run.in_build and not run.may_save and default:
        # The default is a folder that would have to be made first, in a home that would keep it, or may not be written.
        return EmptyStore("none is named, in the build of an image")
    lenient = config.mode is not Mode.READ_WRITE and run.job.outsiders
    # The default store is nobody's typing error: reading it before anything was saved is a miss.
    store = open_named(config.store, run, create=create or default, needed=not lenient)
    if lenient:
        return readable(store, retry=run.retry, tell=run.warn)
    return readable_in_build(store, retry=run.retry) if run.in_build else store


def open_named(url: str, run: Run, *, create: bool, needed: bool, retry: RetryPolicy | None = None) -> Store:
    """The store at *url*, reached as the settings of *run* say unless the URL says it; *needed*: see `Upstreams.role`. *retry* in place of that of *run*."""
    config = run.config
    return open_store(
        url,
        create=create,
        endpoint_url=config.endpoint_url,
        region=config.region,
        ca_bundle=None if config.store_ca_bundle is None else str(config.store_ca_bundle),
        retry=retry or run.retry,
        role=partial(_whoever, run, needed=needed),
    )


def _whoever(run: Run, *, needed: bool) -> AssumedRole | Surroundings:
    role = None if run.config.role_to_assume is None else run.upstreams.role(needed=needed)
    return role or Surroundings(run.environ)


def with_replicas(cache: ModelCache, run: Run) -> ModelCache:
    """
    *cache*, and behind it the replicas that the settings of *run* name; one that cannot be read is told, and left out.

    Raises `ConfigError` for what is no store, or is to be reached in a way that cannot be.
    """
    replicas: list[ModelCache] = []
    # There is another way, and who waits for each of them as for the store has waited for minutes.
    retry = evolve(run.retry, attempts=_TRIES)
    for url in run.config.replicas:
        try:
            store = open_named(url, run, create=False, needed=False, retry=retry)
        except USELESS as error:
            run.warn(f"the replica {url} is left out: {error}")
        else:
            replicas.append(ModelCache(run.paced(store), retry=retry))
    return ReplicatedCache(cache, replicas)


def readable(store: Store, *, retry: RetryPolicy, tell: Callable[[str], None]) -> Store:
    """
    *store*, or an empty one when it may not be read without credentials and there are none: then *tell* says so, once.

    For jobs that get no secrets, such as those of forks: that they cannot use the store is no fault of theirs. Credentials that are
    refused stay an error, for somebody meant them to work.
    """
    if not isinstance(store, OverNetwork) or not store.anonymous:
        return store
    try:
        ModelCache(store, retry=retry).check_format()
    except AccessDenied as refusal:
        _log.info("%s", refusal)
        tell(f"{store.url} may not be read without credentials, and this job has none: it goes on without the store")
        return EmptyStore("it may not be read")
    return store


def readable_in_build(store: Store, *, retry: RetryPolicy) -> Store:
    """*store*; raises `AccessDenied` that says how the build of an image is given credentials, where there are none and they are needed."""
    if not isinstance(store, OverNetwork) or not store.anonymous:
        return store
    try:
        ModelCache(store, retry=retry).check_format()
    except AccessDenied as refusal:
        refusal.hint = _LEND
        raise
    return store
