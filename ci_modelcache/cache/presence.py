"""The only module that finds out which of many blobs are stored by a listing, where that takes fewer requests than asking for each."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from ci_modelcache.cache import keys
from ci_modelcache.cache.encodings import Held
from ci_modelcache.stores.protocol import OnDisk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.stores.protocol import ObjectInfo

_FEW = 16
"""Names for fewer of which no listing is begun."""
_PAGE = 1000
"""Objects that one request lists."""
_WORTH = 64
"""Names that it has to settle: it takes as long as so many questions for one object, of which several are under way at a time."""

Copies = tuple[tuple[str, int], ...]
"""Key and size of each copy of one blob."""


def listed(cache: ModelCache, names: Iterable[str]) -> dict[str, Copies]:
    """
    Every copy of each of *names*, canonical keys of blobs, as `ModelCache.copies` would give them.

    Names without an entry have to be asked for: there are too few, the store is a disk, or it holds so much else that
    listing it is more work than that. What a listing shows was there after the call began.
    """
    wanted = sorted(set(names))
    if len(wanted) < _FEW or isinstance(cache.store, OnDisk):
        return {}
    found: dict[str, list[ObjectInfo]] = {name: [] for name in wanted}
    settled = len(wanted)
    for number, info in enumerate(cache.store.scan(keys.BLOBS), 1):
        name = info.key.partition(".")[0]
        if name > wanted[-1]:
            break
        if name in found:
            found[name].append(info)
        # Names are hashes, and evenly spread: what the first pages settle is what the next ones would.
        if number % _PAGE == 0 and bisect_left(wanted, name) < _WORTH * number // _PAGE:
            settled = bisect_left(wanted, name)
            break
    return {name: tuple((one.key, one.size) for one in Held.among(found[name], name)) for name in wanted[:settled]}


def is_kept(copies: Iterable[tuple[str, int]], size: int, condemned: frozenset[str]) -> bool:
    """Whether one of *copies* has that *size* and will stay."""
    return any(actual == size and key not in condemned for key, actual in copies)
