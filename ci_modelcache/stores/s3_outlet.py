"""The only module that uploads a stream to S3 so that after a kill only what is missing is sent."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from mmap import mmap
from typing import TYPE_CHECKING, Self

from ci_modelcache.errors import AccessDenied, StoreUnsupported
from ci_modelcache.stores.s3_errors import UploadGone
from ci_modelcache.stores.s3_kept import kept_parts
from ci_modelcache.stores.s3_memory import PartMemory, Stopped, filled
from ci_modelcache.stores.s3_senders import SENDERS, Senders
from ci_modelcache.stores.s3_upload import Upload, checksum, part_size
from ci_modelcache.transfer.kept_file import PASSING
from ci_modelcache.transfer.notes import noted
from ci_modelcache.transfer.outlet import Written
from ci_modelcache.transfer.parts import Sums, part_name, part_of, require_parts, sums_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.stores.s3 import S3Store
    from ci_modelcache.stores.s3_kept import KeptPart
    from ci_modelcache.transfer.notes import Note
    from ci_modelcache.transfer.outlet import Take

_log = logging.getLogger(__name__)

PART = 8 * 1024 * 1024
"""Bytes of a part, of an object that has no more than 8,192 of them: half of those of a blob, as an archive is read ahead at the same time."""
_MEMORY = (SENDERS + 1) * PART
"""Bytes of parts in memory; a part that is larger has all of it for itself."""
_LIFECYCLE = "a lifecycle rule AbortIncompleteMultipartUpload"
_CHECKED, _UNCHECKED = "sha256 ", "plain "
"""What the note of an upload begins with: whether its parts carry checksums."""


class ObjectOutlet:
    """
    The object *key* of *store*, as an outlet: it is there when the block has ended well, and as it was when not.

    With *split* there are objects of so many bytes each, and their sums, which appear together at the end. What is uploaded is noted in
    *notes*: after a kill the parts that the store has are compared with what they should be, by their digests, and only others
    are sent. A part has *part* bytes, or more when there would be too many.
    """

    goes_on = True

    def __init__(self, store: S3Store, key: str, *, notes: Path, split: int | None = None, part: int = PART) -> None:
        self._store = store
        self._key = key
        self._notes = notes
        self._split = split
        self._part = part
        self._written: tuple[Written, ...] = ()
        self._size = 0

    @property
    def name(self) -> str:
        return f"{self._store.url}/{self._key}"

    def written(self, sha256: str) -> tuple[Written, ...]:
        return self._written if self._split else (Written(self.name, self._size, sha256),)

    @contextmanager
    def open(self, size: int) -> Iterator[Take]:
        if self._split:
            require_parts(size, self._split)
        sums = Sums(self._split or size)
        with noted(self.name, folder=self._notes, keep=PASSING) as note:
            most = min(size, self._split or size)
            pushing = _Pushing(
                self._store, self._key, note, most=most, part=part_size(most, least=self._part), split=self._split
            )
            with pushing:

                def take(data: bytes) -> None:
                    pushing.take(data)
                    if self._split:
                        sums.update(data)

                yield take
                pushing.end()
                self._size = pushing.seen
                if self._split:
                    self._land_parts(pushing, sums)
                else:
                    pushing.complete()

    def _land_parts(self, pushing: _Pushing, sums: Sums) -> None:
        """Make the parts visible; whoever reads meanwhile finds no sums."""
        store, document = self._store, sums_name(self._key)
        store.delete(document)
        pushing.complete()
        self._written = sums.finish(self.name)
        ours, number = part_of(self._key), len(self._written)
        for found in list(store.scan(f"{self._key}.")):
            if ours.fullmatch(found.key) and int(found.key[-3:]) >= number:
                store.delete(found.key)
        data = sums.document(self.name, self._written)
        store.write(document, [data], size=len(data))


class _Object:
    """One object on its way: its *upload*, and what the store has *kept* of it."""

    def __init__(self, upload: Upload, kept: dict[int, KeptPart]) -> None:
        self.upload = upload
        self.kept = kept
        self.size = 0
        self.parts = 0

    def send(self, number: int, data: mmap) -> None:
        """Have the store hold *data* as part *number*."""
        kept = self.kept.get(number)
        if kept is not None and kept.is_of(data):
            self.upload.adopt(number, kept.etag, kept.sha256 or checksum(data))
            return
        try:
            self.upload.send(number, data)
        except StoreUnsupported as error:
            if kept is not None:  # some stores take no other bytes for a part that they have
                error.hint = "run the same command again: all is sent then"
            raise


class _Pushing:
    """Objects of *split* bytes each, or one, of *most* bytes at most, on their way to *store* in parts of *part* bytes."""

    def __init__(self, store: S3Store, key: str, note: Note, *, most: int, part: int, split: int | None) -> None:
        self._store, self._key, self._note = store, key, note
        self._most, self._part, self._split = most, part, split
        self._objects: list[_Object] = []
        self._memory = PartMemory(_MEMORY)
        self._doing = f"writing {key} ({store.url})"
        self._deadline = store.bucket.retry.deadline
        self._senders = Senders(self._deadline, self._memory, self._doing)
        self._filling: mmap | None = None
        self._held = ExitStack()
        self.seen = 0
        """Bytes."""

    def __enter__(self) -> Self:
        self._senders.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._senders.stop()
        self._held.close()
        if error is None:
            return
        if isinstance(error, PASSING) and self._note.lasts:
            error.add_note(f"what was sent is kept: the same command goes on there; else {_LIFECYCLE} removes it")
            return
        for each in self._objects:
            each.upload.abandon(error)

    def take(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            if self._filling is None:
                self._filling = self._room()
            filling = self._filling
            piece = rest[: len(filling) - filling.tell()]
            filling.write(piece)
            rest = rest[len(piece) :]
            self.seen += len(piece)
            if filling.tell() == len(filling):
                self._send(filling)

    def _room(self) -> mmap:
        """Memory for the next part, of the object that it is a part of."""
        if not self._objects or (self._split and self._objects[-1].size == self._split):
            self._objects.append(self._begin(len(self._objects)))
        size = min(self._part, (self._split or self._part + self._objects[-1].size) - self._objects[-1].size)
        try:
            self._held.enter_context(
                self._memory.room(
                    size, stopped=lambda: self._senders.failure is not None, deadline=self._deadline, doing=self._doing
                )
            )
        except Stopped:
            self._senders.check()
            raise
        return self._held.enter_context(mmap(-1, size))

    def _send(self, data: mmap) -> None:
        one, held = self._objects[-1], self._held.pop_all()
        self._filling = None
        if not one.parts and one.kept and not (1 in one.kept and one.kept[1].is_of(data)):
            # An archive begins with what it holds: one that begins otherwise is another one.
            one.upload.abandon(UploadGone("it is of something else"))
            one = self._objects[-1] = self._new(len(self._objects) - 1)
        one.size += len(data)
        one.parts += 1
        number = one.parts
        self._senders.add(lambda: one.send(number, data), held)

    def end(self) -> None:
        """Send what is left, and wait until all has arrived."""
        if self._filling is not None:
            filling, size = self._filling, self._filling.tell()
            self._send(self._held.enter_context(filled(size, iter([memoryview(filling)[:size]]))))
        self._senders.drain()

    def complete(self) -> None:
        """Make all objects visible, one after the other."""
        for each in self._objects:
            each.upload.complete(each.size)

    def _begin(self, number: int) -> _Object:
        key = self._name(number)
        begun = self._note.get(key)
        if begun is not None:
            upload_id = begun.removeprefix(_CHECKED).removeprefix(_UNCHECKED)
            upload = Upload(self._store.bucket, key, checksums=begun.startswith(_CHECKED), resumed=upload_id)
            try:
                return _Object(upload, self._kept(key, upload_id))
            except (UploadGone, AccessDenied, StoreUnsupported) as error:
                upload.abandon(error)
                _log.warning("%s; sending all of %s again", error, key)
        return self._new(number)

    def _name(self, number: int) -> str:
        return part_name(self._key, number) if self._split else self._key

    def _new(self, number: int) -> _Object:
        key = self._name(number)
        upload = self._store.begin(key)
        # Not every store that lists the parts of an upload says that it has checksums, and none completes it without them.
        self._note.put(key, f"{_CHECKED if upload.checksums else _UNCHECKED}{upload.id}")
        return _Object(upload, {})

    def _kept(self, key: str, upload_id: str) -> dict[int, KeptPart]:
        kept = kept_parts(self._store.bucket, key, upload_id)
        if max(kept, default=0) * self._part >= self._most + self._part:
            # Some stores do not complete an upload without all that was sent.
            msg = f"{key}: the upload that was begun is of something larger"
            raise UploadGone(msg)
        _log.info("%s: the store has %d parts of an earlier upload", key, len(kept))
        return kept
