"""The only module that knows what the commands have in common that take something away from a store, or keep it there."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError, SnapshotNotFound
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.verbs.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cli.run import Run
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.sources.protocol import Upstream

_WHOLE = 100
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?) ?%")


def store_to_change(run: Run) -> ModelCache:
    """The store, which is there already and may be written; raises `ConfigError` when the mode forbids it."""
    if not run.may_save:
        msg = f"this command changes the store, and the mode is {run.mode}"
        raise ConfigError(msg, hint=f"{run.why_not_saved}; give --mode read-write")
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


def parse_share(text: str) -> float:
    """The part of 1 in ``35%``; raises `ConfigError`."""
    match = _SHARE.fullmatch(text)
    if match is None or float(match[1]) > _WHOLE:
        msg = f"not a share: {text!r:.100}"
        raise ConfigError(msg, hint="write per cent from 0% to 100%, such as 35%")
    return float(match[1]) / _WHOLE
