"""
The only module that says of every object of a store what it is, and whether it is as the format wants it.

Others ask for what they know the name of; this looks at what is there, and goes on when something is wrong with it.
"""

from __future__ import annotations

import logging
import re
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache import keys
from ci_modelcache.cache.copies import BlobCopy
from ci_modelcache.cache.encodings import Held
from ci_modelcache.cache.records import (
    AnswerRecord,
    ClosedRecord,
    CondemnedRecord,
    HeadRecord,
    IntentRecord,
    LeaseRecord,
    PinRecord,
    RefRecord,
    ScrubRecord,
)
from ci_modelcache.errors import IntegrityError, ManifestInvalid, ObjectNotFound
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.ref import SnapshotId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.stores.protocol import ObjectInfo

_log = logging.getLogger(__name__)


class Kind(StrEnum):
    """What is named by the digest of its bytes."""

    BLOB = "blob"
    LEAVES = "leaf list"
    MANIFEST = "manifest"


class Rest(StrEnum):
    """What is neither named by a digest nor a document."""

    ENCODED = "encoded"
    """A copy in an encoding of a later version."""
    PASSING = "passing"
    """What tells by its name alone, and what was tried out."""
    UNKNOWN = "unknown"
    """None of this format."""


@frozen
class Stored:
    """
    All copies of what *digest* names, the canonical one first if *plain* says that there is one; sizes are those of the listing.

    *size* is that of all of them together, as they lie there.
    """

    kind: Kind
    digest: Digest
    copies: tuple[BlobCopy, ...]
    plain: bool
    size: int

    @property
    def reading(self) -> int:
        """Bytes that reading all copies gives: those of packed ones are more than lie there."""
        return sum(copy.size for copy in self.copies)


@frozen
class Document:
    """A small document, at *key* as people may be shown it; one that *names_snapshot* is among `roots`, too."""

    key: str
    size: int
    names_snapshot: bool


@frozen
class Other:
    """Anything else, and why nothing more can be said about it."""

    key: str
    size: int
    why: Rest


_PREFIXES = {Kind.BLOB: keys.BLOBS, Kind.LEAVES: keys.LEAVES, Kind.MANIFEST: keys.MANIFESTS}
_CANONICAL = {Kind.BLOB: keys.blob, Kind.LEAVES: keys.leaves, Kind.MANIFEST: keys.manifest}
_HEX = re.compile(r"(?:.*/)?([0-9a-f]{64})(\.[A-Za-z0-9._-]+)?")
_ULID = "[0-9A-HJKMNP-TV-Z]{26}"
_SNAPSHOT = r"[^/]+/(?:model|dataset|space)/[^/]+/[^/]+/[0-9a-f]{40}/(?:all|[0-9a-f]{16})"
_NAME = r"[^/]+/(?:model|dataset|space)/[^/]+/[^/]+/[^/]+\.json"
_DOCUMENTS: tuple[tuple[re.Pattern[str], type], ...] = (
    (re.compile(f"{keys.REFS}{_SNAPSHOT}\\.json"), RefRecord),
    (re.compile(f"{keys.TRASH}{_SNAPSHOT}\\.json"), RefRecord),
    (re.compile(f"{keys.PINS}{_SNAPSHOT}\\.json"), PinRecord),
    (re.compile(f"{keys.HEADS}{_NAME}"), HeadRecord),
    (re.compile(f"{keys.ANSWERS}{_NAME}"), AnswerRecord),
    (re.compile(f"{keys.LEASES}{_SNAPSHOT}\\.json"), LeaseRecord),
    (re.compile(f"{keys.INTENTS}{_ULID}\\.[0-9]+\\.json"), IntentRecord),
    (re.compile(f"{keys.COLLECTIONS}{_ULID}({keys.DOOMED})?{keys.CONDEMNED}"), CondemnedRecord),
    (re.compile(f"{keys.COLLECTIONS}{_ULID}({keys.DOOMED})?{keys.CLOSED}"), ClosedRecord),
    (re.compile(keys.SCRUBBED), ScrubRecord),
)
_PASSING = re.compile(f"{keys.ACCESS}{_SNAPSHOT}/[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}|{keys.PROBES}.+")
_WHERE = {keys.REFS: "", keys.TRASH: " in the trash", keys.PINS: " as it is pinned"}
_ROOTS = {keys.REFS: RefRecord, keys.TRASH: RefRecord, keys.PINS: PinRecord}


def everything(cache: ModelCache) -> Iterator[Stored | Document | Other]:
    """Every object of the store in the order of keys; copies of one thing together."""
    cache.check_format()
    for (kind, digest), group in groupby(cache.store.scan(""), key=lambda info: _addressed(info.key)):
        if kind is not None and digest is not None:
            yield from _stored(cache, kind, digest, group)
            continue
        for info in group:
            if info.key == keys.MARKER or _record_of(info.key) is not None:
                yield Document(info.key, info.size, names_snapshot=info.key.startswith(tuple(_ROOTS)))
            else:
                why = Rest.PASSING if _PASSING.fullmatch(info.key) else Rest.UNKNOWN
                yield Other(info.key, info.size, why)


def contents(cache: ModelCache, kind: Kind) -> Iterator[Stored]:
    """All of one *kind* in the order of digests."""
    cache.check_format()
    for (found, digest), group in groupby(cache.store.scan(_PREFIXES[kind]), key=lambda info: _addressed(info.key)):
        if found is kind and digest is not None:
            yield from (one for one in _stored(cache, kind, digest, group) if isinstance(one, Stored))


def sizes(cache: ModelCache, kind: Kind, digest: Digest) -> tuple[int, ...]:
    """The lengths in bytes of all copies that there are now."""
    return tuple(size for _, size in cache.copies(_CANONICAL[kind](digest)))


def lacks_marker(cache: ModelCache) -> tuple[str, ...]:
    """The name of the marker, if there is none; raises as `ModelCache.marker` does."""
    try:
        cache.marker()
    except ObjectNotFound as miss:
        return (miss.key,)
    return ()


def _addressed(key: str) -> tuple[Kind | None, Digest | None]:
    """What is named by a digest at *key*, and the digest; neither where that is no place for it."""
    for kind, prefix in _PREFIXES.items():
        match = _HEX.fullmatch(key) if key.startswith(prefix) else None
        if match is not None:
            digest = Digest(match[1])
            if key.startswith(_CANONICAL[kind](digest)):
                return kind, digest
    return None, None


def _stored(cache: ModelCache, kind: Kind, digest: Digest, group: Iterator[ObjectInfo]) -> Iterator[Stored | Other]:
    canonical = _CANONICAL[kind](digest)
    infos = tuple(group)
    held = Held.among(infos, canonical)
    copies = {one.key: one.copy(cache.store) for one in held}
    yield from (Other(info.key, info.size, Rest.ENCODED) for info in infos if info.key not in copies)
    if copies:
        yield Stored(kind, digest, tuple(copies.values()), canonical in copies, sum(one.stored for one in held))


def _record_of(key: str) -> type | None:
    return next((kind for form, kind in _DOCUMENTS if form.fullmatch(key)), None)


def check_document(cache: ModelCache, document: Document) -> None:
    """Read *document*; raises `IntegrityError` for one that is not as the format wants it, `ObjectNotFound` for one that has vanished."""
    kind = _record_of(document.key)
    if kind is None:
        cache.marker()
        return
    record: object = cache.record(document.key, kind)
    if isinstance(record, (HeadRecord, AnswerRecord)):
        expected = f"{keys.encode(record.revision)}.json"
        if document.key.rpartition("/")[2] != expected:
            msg = f"{cache.url}/{document.key} tells of {record.revision!r:.300}, which would be {expected}"
            raise ManifestInvalid(msg, hint="somebody altered it; ci-modelcache fetch writes the right one")


def intended(cache: ModelCache) -> frozenset[Digest]:
    """What writers that are at work rely on; an intent that nobody can read is told by `check_document`."""
    found: set[Digest] = set()
    for info in cache.store.scan(keys.INTENTS):
        try:
            found.update(cache.record(info.key, IntentRecord).digests)
        except (IntegrityError, ObjectNotFound) as error:
            _log.debug("%s", error)
    return frozenset(found)


# --- what names snapshots


@frozen
class Root:
    """
    A ref, a pin or something in the trash.

    *name* is for people: the *snapshot*, or the key where that has only the hash of a long word. Only what is a ref is *published*: readers
    find it. What is *dropped* lies in the trash.
    """

    name: str
    snapshot: SnapshotId | None
    published: bool
    dropped: bool
    key: str
    prefix: str


def roots(cache: ModelCache) -> Iterator[Root]:
    """Every ref, then everything in the trash, then every pin."""
    cache.check_format()
    for prefix in _ROOTS:
        for info in cache.store.scan(prefix):
            if _record_of(info.key) is not None:
                yield _root(info.key, prefix)


def _root(key: str, prefix: str) -> Root:
    standing = prefix == keys.REFS, prefix == keys.TRASH
    if keys.is_hashed(key):
        return Root(key, None, *standing, key, prefix)
    try:
        snapshot = keys.snapshot_of(keys.REFS + key.removeprefix(prefix))
    except ManifestInvalid as error:
        _log.debug("%s", error)
        return Root(key, None, *standing, key, prefix)
    return Root(f"{snapshot}{_WHERE[prefix]}", snapshot, *standing, key, prefix)


def manifest_of(cache: ModelCache, root: Root) -> Manifest:
    """The manifest that *root* names; raises `ObjectNotFound`, `IntegrityError` and `StoreUnsupported`."""
    record: RefRecord | PinRecord = cache.record(root.key, _ROOTS[root.prefix])
    manifest = cache.manifest_named(record.manifest)
    if keys.ref(manifest.id) != keys.REFS + root.key.removeprefix(root.prefix):
        msg = f"{cache.url}/{root.key} leads to the manifest of {manifest.id}"
        raise ManifestInvalid(msg, hint="somebody altered it")
    return manifest


def named_by(cache: ModelCache, root: Root) -> tuple[Digest, ...]:
    """The digest of the manifest that *root* names, whatever that is; nothing where *root* itself cannot be read."""
    try:
        record: RefRecord | PinRecord = cache.record(root.key, _ROOTS[root.prefix])
    except (IntegrityError, ObjectNotFound) as error:
        _log.debug("%s", error)
        return ()
    return (record.manifest,)


def stands(cache: ModelCache, root: Root) -> bool:
    """Whether *root* is still there: what was dropped while somebody looked at it is no damage."""
    try:
        cache.store.stat(root.key)
    except ObjectNotFound:
        return False
    return True


def is_store(folder: Path) -> bool:
    """Whether *folder* is a store, or a tier, rather than a folder with files of models."""
    return (folder / keys.MARKER).is_file() or (folder / keys.BLOBS).is_dir()
