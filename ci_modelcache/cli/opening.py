"""The only module that opens the store that the settings name, and decides what a job without credentials does without it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.config import Rank
from ci_modelcache.errors import AccessDenied
from ci_modelcache.stores.empty import EmptyStore
from ci_modelcache.stores.locations import open_store
from ci_modelcache.stores.protocol import OverNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.config import Config
    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.stores.s3_role import AssumedRole
    from ci_modelcache.transfer.retry import RetryPolicy

_log = logging.getLogger(__name__)

_LEND = "give the build credentials: --secret id=aws,src=$HOME/.aws/credentials, and in the Dockerfile RUN --mount=type=secret,id=aws,target=/root/.aws/credentials, or the target of its AWS_SHARED_CREDENTIALS_FILE"


def open_configured(
    config: Config, *, create: bool, retry: RetryPolicy, role: Callable[[], AssumedRole | None] | None
) -> Store:
    """The store of *config*, made if *create* and it is a folder; raises what `open_store` raises."""
    return open_store(
        config.store,
        # The default store is nobody's typing error: reading it before anything was saved is a miss.
        create=create or config.origins["store"].rank is Rank.DEFAULT,
        endpoint_url=config.endpoint_url,
        region=config.region,
        ca_bundle=None if config.store_ca_bundle is None else str(config.store_ca_bundle),
        retry=retry,
        role=role,
    )


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
