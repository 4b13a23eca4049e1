"""
The only module that puts right what `verify` found missing or wrong: with proven bytes of whoever has them, as any writer does.

A mended blob goes through `Publication`, so that a collection that runs at the same time takes nothing of it, and no wrong
byte becomes visible. What cannot be mended is told, never raised: it hides nothing of what was found.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    IntegrityError,
    ModelCacheError,
    NoSpace,
    NotFound,
    ObjectNotFound,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.model.digest import Digest, verified
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import ALL, Selection
from ci_modelcache.transfer.disk import Room
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.verbs.deliver import listed_of
from ci_modelcache.verbs.fetch import ingest_listed
from ci_modelcache.verbs.givers import StoreGiver
from ci_modelcache.verbs.receive import Inbound, receive, senders

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from ci_modelcache.cache.copies import BlobCopy
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import FileEntry
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.sources.mirrors import Mirrors
    from ci_modelcache.transfer.partial import Partial
    from ci_modelcache.verbs.givers import Giver
    from ci_modelcache.verbs.step import Count, Step

_log = logging.getLogger(__name__)

_UNMENDED = (NotFound, AccessDenied, Unavailable, IntegrityError, NoSpace, ConfigError)
"""Why something stays as it is; a deadline, an interruption and a bug end the verb."""


@frozen
class Recovered:
    """
    A *manifest* that the store had lost, by the word of *source*.

    *stored*: it is in the store again, with its ref. Otherwise it is committed when the rest of the snapshot is there.
    """

    manifest: Manifest
    source: str
    stored: bool


class Mender:
    """
    Mends *cache* with what *givers* have, asked in their order, and then *upstream*, which is one or none.

    Whoever is asked is believed about no byte. A replica among *givers* is believed about which files a snapshot has only where the ref of
    this store cannot be read; upstream is, by the word of its authority.
    """

    def __init__(
        self, cache: ModelCache, givers: Sequence[Giver], *, upstream: Sequence[Mirrors] = (), step: Step
    ) -> None:
        self._cache = cache
        self._givers = tuple(givers)
        self._upstream = tuple(upstream)
        self._step = step.silently()
        self._own = StoreGiver(cache, retry=step.retry)
        self._room = Room(step.state)
        self.sources: dict[Digest, str] = {}
        """From where each blob came that is right again."""
        self.failures: dict[Digest, str] = {}
        """Why the others are not."""
        self.bytes_mended = 0

    # --- blobs, and what goes with them

    def mend(self, manifest: Manifest, bad: Container[Digest], *, spare: Container[Digest] = (), whole: bool) -> str:
        """
        Put right those blobs of *manifest* that are *bad*; of those that are *spare* the store itself has a right copy.

        If *whole*, its leaf lists, the manifest and the ref as well, once all blobs are right. Returns why not all of that could be done, or nothing.
        """
        files = {file.sha256: file for file in manifest.files}
        chosen = [file for digest, file in files.items() if whole or digest in bad or digest in spare]
        try:
            with Publication(self._cache) as publication:
                publication.announce(file.sha256 for file in chosen)

                def settle(file: FileEntry) -> None:
                    again = file.sha256 in self.sources
                    wrong = not again and (file.sha256 in bad or file.sha256 in spare)
                    if not wrong and (publication.has_blob(file.sha256, file.size) or not whole):
                        return
                    own = () if wrong and file.sha256 in bad else (self._own,)
                    self._settle(file, manifest.id, publication, (*own, *self._givers))

                doing = f"repairing {manifest.id}"
                for_each(chosen, settle, workers=self._step.workers, deadline=self._step.deadline, doing=doing)
                lost = [file.path for file in chosen if file.sha256 in self.failures]
                if lost:
                    return f"{lost[0]} could not be had"
                if whole:
                    publication.commit(manifest, self._leaf_lists(manifest), provenance={"source": "repaired"})
        except _UNMENDED as error:
            return error.message
        return ""

    def _settle(self, file: FileEntry, snapshot: SnapshotId, publication: Publication, givers: Sequence[Giver]) -> None:
        """Store *file* from the first who has it right, and note who that was, or why nobody."""
        failures: list[str] = []
        for giver in givers:
            try:
                source = self._taken(file, giver, publication)
            except _UNMENDED as error:
                failures.append(error.message)
                continue
            self._note(file, source)
            return
        for upstream in self._upstream:
            try:
                source = self._received(file, snapshot, upstream, publication)
            except _UNMENDED as error:
                failures.append("; ".join([error.message, *getattr(error, "__notes__", ())]))
                continue
            self._note(file, source)
            return
        self.failures[file.sha256] = "; ".join(failures) or "nobody could be asked for it: name a replica with --from"

    def _note(self, file: FileEntry, source: str) -> None:
        _log.info("%s was repaired from %s", file.path, source)
        self.sources[file.sha256] = source
        self.failures.pop(file.sha256, None)
        self.bytes_mended += file.size

    def _taken(self, file: FileEntry, giver: Giver, publication: Publication) -> str:
        """Store *file* from *giver*, who is returned; raises what was wrong with the last thing that it offered."""
        failure: ModelCacheError = ObjectNotFound(file.sha256.hex, giver.url)
        for what, chunks in giver.offers(file):
            try:
                publication.put_blob(file.expected, file.sha256, chunks(), what=what)
            except (NotFound, IntegrityError) as error:
                failure = error
            else:
                return giver.url
        raise failure

    def _received(self, file: FileEntry, snapshot: SnapshotId, upstream: Mirrors, publication: Publication) -> str:
        """Store *file* from *upstream*; returns who sent it."""
        ref = _ref_of(snapshot, upstream)

        def take(chunks: Iterator[bytes], _partial: Partial | None) -> None:
            publication.put_blob(file.expected, file.sha256, chunks, what=f"{file.path} of {ref}")

        inbound = Inbound(ref, upstream, self._step.state / "partial", self._step, room=self._room)
        received = receive(listed_of(file), inbound, take=take)
        for warning in received.warnings:
            _log.warning("%s", warning)
        return senders(received.sources, upstream)

    def _leaf_lists(self, manifest: Manifest) -> list[bytes]:
        """The leaf list of every file that has one, made again from its blob where the store has lost it."""
        found: list[bytes] = []
        for file in manifest.files:
            if file.leaves is not None:
                try:
                    found.append(self._cache.leaf_list(file.leaves))
                except (ObjectNotFound, IntegrityError) as error:
                    _log.debug("%s; making it again", error)
                    found.append(self._made_again(file, file.leaves))
        return found

    def _made_again(self, file: FileEntry, name: Digest) -> bytes:
        failure: ModelCacheError = ObjectNotFound(file.sha256.hex, self._cache.url)
        for copy in self._cache.blob_copies(file.sha256, file.size):
            try:
                made = self._step.receive(partial(self._hashed, file, copy), doing=f"reading {copy}")
            except (NotFound, IntegrityError) as error:
                failure = error
                continue
            if Digest.of(made) != name:
                msg = f"the manifest names {name} as the leaf list of {file.path}, which has another"
                raise IntegrityError(msg)
            return made
        raise failure

    def _hashed(self, file: FileEntry, copy: BlobCopy, count: Count) -> bytes:
        hasher = file.expected.fingerprinter()
        chunks = count(read_through(copy.open, file.size, self._step.retry, what=str(copy)))
        for _ in verified(chunks, file.expected, str(copy), into=hasher):
            pass
        return hasher.finish().leaf_list or b""

    # --- manifests

    def recover(self, snapshot: SnapshotId) -> Recovered:
        """The manifest of *snapshot*, which this store has lost; raises `SnapshotNotFound` that says why nobody has it."""
        failures: list[str] = []
        promised = tuple(self._promised(snapshot))
        for giver in self._givers:
            try:
                manifest = giver.manifest(snapshot, promised)
            except _UNMENDED as error:
                failures.append(error.message)
                continue
            if manifest.id == snapshot:
                return Recovered(manifest, giver.url, stored=False)
            failures.append(f"{giver.url} has {manifest.id} by that name")
        for upstream in self._upstream:
            try:
                return self._fetched(snapshot, upstream)
            except _UNMENDED as error:
                failures.append(error.message)
        msg = "; ".join(failures) or "nobody could be asked for it: name a replica with --from"
        raise SnapshotNotFound(msg)

    def _promised(self, snapshot: SnapshotId) -> Iterator[Digest]:
        """The digest that the ref names, if that can be read and does not lead to another snapshot."""
        try:
            named = self._cache.ref(snapshot).manifest
        except (NotFound, IntegrityError) as error:
            _log.debug("%s", error)
            return
        try:
            self._cache.manifest_named(named)
        except (NotFound, IntegrityError) as error:
            _log.debug("%s", error)
            yield named

    def _fetched(self, snapshot: SnapshotId, upstream: Mirrors) -> Recovered:
        if snapshot.selection != ALL:
            msg = f"{snapshot} is a part, and only its own manifest says which files it has"
            raise SnapshotNotFound(msg, hint="fetch it again with the same --include and --exclude")
        ref = _ref_of(snapshot, upstream)
        everything = Selection.everything()
        ingested = ingest_listed(snapshot, ref, everything, cache=self._cache, upstream=upstream, step=self._step)
        return Recovered(ingested.manifest, senders(ingested.sources, upstream), stored=True)


def _ref_of(snapshot: SnapshotId, upstream: Mirrors) -> ModelRef:
    """*snapshot* as *upstream* is asked for it; raises `SnapshotNotFound` for one of another Hub."""
    if snapshot.host != upstream.host:
        msg = f"it belongs to {snapshot.host}, and the endpoint is {upstream.host}"
        raise SnapshotNotFound(msg, hint=f"give --endpoint https://{snapshot.host}")
    return ModelRef(snapshot.repo, snapshot.commit, snapshot.type)
