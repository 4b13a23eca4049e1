"""
The only module that interleaves writers with a collection, one operation at a time, over the real code.

The collector is the one of the protocol (DESIGN section 7): it lists objects, then intents, then refs, publishes what it
condemns, later lists intents and refs again, and deletes what is still unnamed, however late.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import CondemnedRecord, IntentRecord, RefRecord
from ci_modelcache.errors import ModelCacheError
from ci_modelcache.model.document import from_json, to_json
from tests.parts.cached import MANIFEST, cache_in, require_restorable
from tests.parts.stores import Crash, Meddling, MemoryStore, content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.stores.protocol import Store

STEPS = 4
_COLLECTED = ("blobs/", "leaves/", "manifests/")


class Collector:
    """One run over *store*; with *expire* it takes every intent for one of a dead writer."""

    def __init__(self, store: Store, *, expire: bool) -> None:
        self._store = store
        self._expire = expire
        self._objects: set[str] = set()
        self._intended: set[str] = set()
        self._condemned: set[str] = set()
        self._doomed: set[str] = set()
        self.steps: list[Callable[[], None]] = [self.look, self.condemn, self.decide, self.delete]

    def look(self) -> None:
        self._objects = {info.key for prefix in _COLLECTED for info in self._store.scan(prefix)}
        self._intended = self._read_intents()

    def condemn(self) -> None:
        self._condemned = self._unnamed(self._objects)
        data = to_json(CondemnedRecord(tuple(sorted(self._condemned))))
        self._store.write("gc/1/condemned.json", [data], size=len(data))

    def decide(self) -> None:
        self._intended = self._read_intents()
        self._doomed = self._unnamed(self._condemned)

    def delete(self) -> None:
        for key in self._doomed:
            self._store.delete(key)

    def _read_intents(self) -> set[str]:
        found: set[str] = set()
        for info in list(self._store.scan(keys.INTENTS)):
            if self._expire:
                self._store.delete(info.key)
            else:
                record = from_json(content(self._store, info.key), IntentRecord, info.key)
                found.update(digest.hex for digest in record.digests)
        return found

    def _unnamed(self, objects: set[str]) -> set[str]:
        named = self._intended | self._referred()
        return {key for key in objects if key.rpartition("/")[2][:64] not in named}

    def _referred(self) -> set[str]:
        found: set[str] = set()
        cache = cache_in(self._store)
        for info in self._store.scan(keys.REFS):
            digest = from_json(content(self._store, info.key), RefRecord, info.key).manifest
            manifest = cache.manifest_named(digest)
            found.add(digest.hex)
            found.update(file.sha256.hex for file in manifest.files)
        return found


@frozen
class Lost:
    """A writer was told of success, and the snapshot is gone: the steps of the collection came before these operations."""

    positions: tuple[int, ...]
    expire: bool
    why: str


def operations_of(actor: Callable[[ModelCache], object], prepare: Callable[[ModelCache], object]) -> int:
    """How many operations *actor* needs when nobody meddles."""
    store = MemoryStore()
    prepare(cache_in(store, seed=b"prepare"))
    meddling = Meddling(store, {})
    _succeeds(actor, cache_in(meddling))
    return meddling.count


def losses(
    actor: Callable[[ModelCache], object],
    *,
    prepare: Callable[[ModelCache], object],
    manifest: Manifest = MANIFEST,
    every: int = 1,
) -> Iterator[Lost]:
    """
    Run *actor* with a collection in every possible way, or each *every*-th; yield those in which its success was a lie.

    *prepare* fills the store before. An actor that raises has promised nothing, but trying again must then succeed.
    """
    # A writer that meets a collection does more than one that does not: look beyond its usual end.
    slots = operations_of(actor, prepare) + 6
    ways = list(combinations_with_replacement(range(slots), STEPS))
    for expire in (True, False):
        for positions in ways[::every]:
            why = _loss(actor, prepare, manifest, positions, expire=expire)
            if why:
                yield Lost(positions, expire, why)


def _loss(
    actor: Callable[[ModelCache], object],
    prepare: Callable[[ModelCache], object],
    manifest: Manifest,
    positions: Sequence[int],
    *,
    expire: bool,
) -> str:
    store = MemoryStore()
    prepare(cache_in(store, seed=b"prepare"))
    left = list(zip(positions, Collector(store, expire=expire).steps, strict=True))
    steps: dict[int, list[Callable[[], None]]] = {}

    def take(number: int) -> None:
        position, step = left.pop(0)
        assert position == number
        step()

    for position, _ in left:
        steps.setdefault(position, []).append(lambda position=position: take(position))  # type: ignore[misc]  # a lambda with a default
    succeeded = _succeeds(actor, cache_in(Meddling(store, steps)))
    for _, step in left:
        step()
    if not succeeded:
        return (
            ""
            if _succeeds(actor, cache_in(store, seed=b"again")) and _holds(store, manifest)
            else "no second try helps"
        )
    return "" if _holds(store, manifest) else "it is gone"


def _succeeds(actor: Callable[[ModelCache], object], cache: ModelCache) -> bool:
    try:
        actor(cache)
    except (ModelCacheError, Crash):
        return False
    return True


def _holds(store: Store, manifest: Manifest) -> bool:
    try:
        require_restorable(cache_in(store), manifest)
    except (ModelCacheError, AssertionError):
        return False
    return True
