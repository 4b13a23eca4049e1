"""The only module that uploads an object in parts: several at once, few in memory, and all or nothing."""

from __future__ import annotations

import hashlib
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ci_modelcache.errors import ModelCacheError, ObjectNotFound
from ci_modelcache.stores.s3_errors import UploadGone, proper
from ci_modelcache.stores.s3_memory import Stopped, filled
from ci_modelcache.stores.s3_wire import Body, spelled
from ci_modelcache.stores.sums import SPAN, sum_of
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from mmap import mmap

    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        CompleteMultipartUploadRequestTypeDef,
    )

    from ci_modelcache.stores.s3_bucket import Bucket
    from ci_modelcache.stores.s3_wire import Wire

PART = SPAN
"""Bytes of a part, and of the largest object that is put in one request."""
MAX_PARTS = 8192
"""Parts of the largest upload: below the 10,000 that S3 allows. Larger objects have larger parts."""
WORKERS = 4
"""Parts of one upload on their way at once, and so in memory; `Bucket.memory` bounds those of all uploads."""


def part_size(size: int, *, least: int = PART) -> int:
    """Bytes of each part but the last of an object of *size* bytes: *least*, or more of a large one."""
    part = least
    while size > part * MAX_PARTS:
        part *= 2
    return part


def checksum(data: bytes | mmap) -> str:
    """The SHA-256 of *data* as S3 writes it."""
    return spelled(hashlib.sha256(data).digest())


class _Parts:
    """Cuts *chunks* into parts, for several threads that each take the next; what *chunks* raises, all of them raise."""

    def __init__(
        self, chunks: Iterator[bytes], *, size: int, room: Callable[[int], AbstractContextManager[None]]
    ) -> None:
        self._chunks = chunks
        self._part = part_size(size)
        self._left = size
        self._room = room
        self._rest = memoryview(b"")
        self._number = 0
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self.count = -(-size // self._part)
        self.spans = self._part // SPAN

    @contextmanager
    def next(self) -> Iterator[tuple[int, mmap]]:
        """The number and the bytes of the next part; it is the last one only if *chunks* ended well after it."""
        with ExitStack() as held:
            # Only who is to read waits for room: those that stood in line for the lock would hold room and use none.
            with self._lock:
                taken = self._take(held)
            yield taken

    def _take(self, held: ExitStack) -> tuple[int, mmap]:
        if self._failure is not None:
            raise self._failure
        try:
            size = min(self._part, self._left)
            held.enter_context(self._room(size))
            part = held.enter_context(filled(size, self._pieces(size)))
            self._left -= len(part)
            if not self._left:
                self._drain()
        except BaseException as error:
            self._failure = error
            raise
        self._number += 1
        return self._number, part

    def _pieces(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._rest:
                self._rest = memoryview(next(self._chunks))
            piece = self._rest[:size]
            self._rest = self._rest[len(piece) :]
            size -= len(piece)
            yield piece

    def _drain(self) -> None:
        """Ask for what follows the last byte: that is where an iterator that verifies itself raises."""
        for _ in self._chunks:
            pass


class Upload:
    """One multipart upload to *key* of *bucket*, begun now or that of *resumed*; *checksums* says whether each part carries its SHA-256."""

    def __init__(self, bucket: Bucket, key: str, *, checksums: bool, resumed: str | None = None) -> None:
        self._bucket = bucket
        self._key = key
        self.checksums = checksums
        self._name = bucket.full(key)
        self._doing = f"writing {key}"
        self.id = resumed or bucket.retried(self._create, doing=self._doing, key=None)
        self._parts: dict[int, CompletedPartTypeDef] = {}
        self._failure: BaseException | None = None
        self._aborted = threading.Event()

    def _create(self, client: S3Client) -> str:
        if self.checksums:
            answer = client.create_multipart_upload(
                Bucket=self._bucket.name, Key=self._name, ChecksumAlgorithm="SHA256"
            )
        else:
            answer = client.create_multipart_upload(Bucket=self._bucket.name, Key=self._name)
        return proper(answer, "UploadId")["UploadId"]

    def run(self, chunks: Iterator[bytes], *, size: int, create_only: bool, sums: Sequence[bytes] = ()) -> None:
        """
        Make the object visible after *chunks* ended well, or abort the upload and pass on what was raised.

        *chunks* must raise by itself when it is not *size* bytes long. *sums* are those of `Store.write`.
        """
        parts = _Parts(chunks, size=size, room=self._room)
        try:
            for_each(
                range(parts.count),
                lambda _: self._send_next(parts, sums),
                workers=WORKERS,
                deadline=self._bucket.retry.deadline,
                doing=f"{self._doing} ({self._bucket.url})",
            )
            self.complete(size, create_only=create_only)
        except BaseException as error:
            self.abandon(error)
            raise

    def complete(self, size: int, *, create_only: bool = False) -> None:
        """Make the object visible, which has *size* bytes: those of the parts that were sent and adopted."""
        self._bucket.retry.call(lambda: self._complete(size, create_only=create_only), doing=self._doing)

    def abandon(self, error: BaseException) -> None:
        """Give up because of *error*, and give the parts back."""
        self._stop(error)
        # Before the request: a part that ends after this line is seen by its sender to have come too late.
        self._aborted.set()
        self._abort(error)

    def _room(self, size: int) -> AbstractContextManager[None]:
        return self._bucket.memory.room(
            size,
            stopped=self._is_stopped,
            deadline=self._bucket.retry.deadline,
            doing=f"{self._doing} ({self._bucket.url})",
        )

    def _is_stopped(self) -> bool:
        return self._failure is not None

    def _stop(self, error: BaseException) -> None:
        """Have no thread of this upload begin another attempt, or wait for room."""
        if self._failure is None:
            self._failure = error
        self._bucket.memory.wake()

    def _send_next(self, parts: _Parts, sums: Sequence[bytes]) -> None:
        try:
            with parts.next() as (number, data):
                self.send(number, data, sums[(number - 1) * parts.spans : number * parts.spans])
        except Stopped as stopped:
            # The caller takes the first failure it is handed, which may be this one.
            raise self._failure or stopped from None
        except BaseException as error:
            self._stop(error)
            raise

    def adopt(self, number: int, etag: str, sha256: str | None) -> None:
        """Take part *number* as it is there: it has that ETag, and the *sha256* as S3 writes it if this upload has checksums."""
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": etag}
        if self.checksums and sha256 is not None:
            part["ChecksumSHA256"] = sha256
        self._parts[number] = part

    def send(self, number: int, data: mmap, sums: Sequence[bytes] = ()) -> None:
        """
        Upload part *number* (from 1), again for as long as the store may have it the next time.

        *sums*: those of each of its spans. Raises `DigestMismatch` when it has others, before anything is sent.
        """
        sha256 = sum_of(data, sums, what=f"{self._key}, part {number}")
        body = Body(data, sha256, checked=self.checksums)
        doing = f"{self._doing}, part {number}"
        etag = self._bucket.retry.call(
            lambda: self._bucket.asked(lambda wire: self._attempt(wire, number, body), doing=doing),
            doing=f"{doing} ({self._bucket.url})",
        )
        self.adopt(number, etag, spelled(sha256))

    def _attempt(self, wire: Wire, number: int, body: Body) -> str:
        if self._is_stopped():
            raise Stopped
        try:
            return wire.put_part(self._name, body, upload=self.id, number=number)
        finally:
            # A part that lands after the abort is kept, and billed; whether a failed one landed is not known.
            if self._aborted.is_set() and self._failure is not None:
                self._abort(self._failure)

    def _complete(self, size: int, *, create_only: bool) -> None:
        request: CompleteMultipartUploadRequestTypeDef = {
            "Bucket": self._bucket.name,
            "Key": self._name,
            "UploadId": self.id,
            "MultipartUpload": {"Parts": [self._parts[number] for number in sorted(self._parts)]},
        }
        if create_only:
            request["IfNoneMatch"] = "*"
        try:
            self._bucket.once(
                lambda client: proper(client.complete_multipart_upload(**request), "ETag"),
                doing=self._doing,
                key=self._key,
            )
        except (UploadGone, ObjectNotFound) as error:
            # The answer to an earlier attempt was lost on its way, and the upload is the object now; or it was aborted.
            head = self._bucket.once(
                lambda client: client.head_object(Bucket=self._bucket.name, Key=self._name),
                doing=self._doing,
                key=self._key,
            )
            if head["ContentLength"] != size:
                raise UploadGone(error.message, hint=error.hint) from error

    def _abort(self, because: BaseException) -> None:
        """Give the parts back, in one attempt: the deadline may have passed, and somebody may be waiting at Ctrl-C."""
        try:
            self._bucket.once(
                lambda client: client.abort_multipart_upload(
                    Bucket=self._bucket.name, Key=self._name, UploadId=self.id
                ),
                doing=f"aborting the upload of {self._key}",
            )
        except UploadGone:
            return
        except ModelCacheError as error:
            because.add_note(
                f"and the unfinished upload of {self._key} stays in {self._bucket.url}: {error}; "
                "a lifecycle rule AbortIncompleteMultipartUpload removes such parts"
            )
