"""The only module that knows what the commands have in common that change a store which must be there already."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ci_modelcache.errors import SnapshotNotFound
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.verbs.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cli.run import Run
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.sources.protocol import Upstream


def store_to_change(run: Run) -> ModelCache:
    """The store, which is there already and may be written; raises `ConfigError` when the mode forbids it."""
    run.require_writing()
    return run.cache_to_see()


def meant(
    refs: Sequence[str], known: Iterable[SnapshotId], *, cache: ModelCache, host: Upstream, what: str, hint: str
) -> tuple[SnapshotId, ...]:
    """
    Those of the *known* snapshots that *refs* mean, whole and partial; a branch is taken as the store saw it last.

    Raises `SnapshotNotFound`, for one that means none, before the first is returned: there is no *what* of it.
    """
    among = tuple(known)
    found: dict[SnapshotId, None] = {}
    for ref in map(ModelRef.parse, refs):
        commit = resolve(ref, cache=cache, upstream=host, revision_ttl=math.inf).commit
        of_it = [
            one
            for one in among
            if (one.host, one.type, one.repo, one.commit) == (host.host, ref.type, ref.repo, commit)
        ]
        if not of_it:
            msg = f"{cache.url} holds no {what} of {ref}"
            raise SnapshotNotFound(msg, hint=hint)
        found.update(dict.fromkeys(of_it))
    return tuple(found)
