"""The only module that knows which objects of a store a restore reads."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ci_modelcache.cache import keys
from ci_modelcache.errors import ObjectNotFound, SizeMismatch, SnapshotNotFound, StoreUnsupported
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.selection import ALL
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.transfer.deadline import Deadline

_DOING = "looking at what is stored"


def objects_of(manifests: Iterable[Manifest], *, cache: ModelCache, workers: int, deadline: Deadline) -> dict[str, int]:
    """
    The sizes, by key, of all objects of *cache* that restoring *manifests* reads, looked up now by so many *workers*.

    Refs and manifests that the store lacks are left out, for a lock has them. A blob that it lacks raises `ObjectNotFound`, whose key is the
    SHA-256, one that it only has in another size `SizeMismatch`, and one that it only has encoded `StoreUnsupported`.
    """
    cache.check_format()
    search = _Search(cache, cache.condemned())
    search.note(keys.MARKER)
    wanted: dict[_Blob | SnapshotId, None] = {}  # each once, in an order that repeats
    for manifest in manifests:
        wanted[manifest.id] = None
        wanted.update((_Blob(file.sha256, file.size), None) for file in manifest.files)
    for_each(wanted, search.look, workers=workers, deadline=deadline, doing=_DOING)
    return dict(sorted(search.found.items()))


@frozen
class _Blob:
    digest: Digest
    size: int


class _Search:
    """What was *found*; names in *condemned* are about to vanish, and are taken only when there is no other copy."""

    def __init__(self, cache: ModelCache, condemned: frozenset[str]) -> None:
        self.found: dict[str, int] = {}
        self._cache = cache
        self._condemned = condemned

    def look(self, wanted: _Blob | SnapshotId) -> None:
        """Note keys and sizes of *wanted*. May be called from any thread."""
        if isinstance(wanted, _Blob):
            self._blob(wanted)
        else:
            self._snapshot(wanted)

    def note(self, key: str) -> bool:
        """Note key and size of an object, unless the store lacks it."""
        with suppress(ObjectNotFound):
            self.found[key] = self._cache.store.stat(key).size
        return key in self.found

    def _snapshot(self, snapshot: SnapshotId) -> None:
        """The ref of *snapshot* and what it leads to, or those of the whole that it is a part of."""
        if self.note(keys.ref(snapshot)):
            with suppress(SnapshotNotFound):  # gone in this moment
                # All copies, as nobody reads them here to see which one is right.
                self.found.update(self._cache.copies(keys.manifest(self._cache.ref(snapshot).manifest)))
        elif snapshot.selection != ALL:
            self._snapshot(evolve(snapshot, selection=ALL))

    def _blob(self, blob: _Blob) -> None:
        canonical, wrong, packed = keys.blob(blob.digest), 0, ""
        copies: list[tuple[str, int]] = []
        for key, size in self._cache.copies(canonical):
            if keys.packed_size(key, canonical):
                packed = key
            elif size != blob.size:
                wrong = size
            elif key in self._condemned:
                copies.append((key, size))
            else:
                copies = [(key, size)]
                break
        if copies:
            self.found.update(copies[:1])
        elif packed:
            msg = f"{self._cache.url}/{packed} is encoded, and there is no raw copy that a URL could be signed for"
            raise StoreUnsupported(msg, hint="ci-modelcache fetch --force-download --encoding raw stores it raw, too")
        elif wrong:
            what = f"{self._cache.url}/{canonical}"
            raise SizeMismatch(what, expected=blob.size, actual=wrong)
        else:
            raise ObjectNotFound(blob.digest.hex, self._cache.url)
