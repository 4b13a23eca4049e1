"""Make a store usable: write its marker, with what the probe found out about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.model.document import to_plain
from ci_modelcache.stores.probe import probe

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cache.records import Marker
    from ci_modelcache.stores.protocol import Store


def initialise(cache: ModelCache) -> Marker:
    """The store's marker, written first where there is none; raises `AccessDenied` for a store that only reads."""

    def capabilities(store: Store) -> dict[str, str | bool]:
        found: dict[str, str | bool] = to_plain(probe(store, random=cache.random))
        return found

    return cache.initialise(capabilities)
