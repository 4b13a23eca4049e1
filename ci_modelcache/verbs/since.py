"""Find out which files somebody has already, by an archive or a lock that he has: what an export may leave out."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from ci_modelcache.errors import ManifestInvalid
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import MAX_DOCUMENT
from ci_modelcache.model.lock import Lock
from ci_modelcache.model.plain_archive import SUMS
from ci_modelcache.model.tar_reader import read_members
from ci_modelcache.transfer.inlet import Ahead, Inlet, Pipe, Reading
from ci_modelcache.transfer.parallel import bounded
from ci_modelcache.transfer.streams import read_through
from ci_modelcache.transfer.unzstd import plain_of
from ci_modelcache.verbs.unpacking import BLOB, SUM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.verbs.step import Step

_BINARY = 512
"""Bytes, among which every archive has a zero, packed or not, and no lock."""


def held_by(source: Inlet | Pipe, *, step: Step) -> frozenset[Digest]:
    """
    The digests of all that the archive *source* really has, in either format, or of all files that it names as a lock.

    By its names alone: no content is read. One that is broken off raises `IntegrityError`, so that nobody builds on half a backup.
    """
    return bounded(
        partial(_held_by, source, retry=step.retry), deadline=step.deadline, doing=f"looking at {source.name}"
    )


def _held_by(source: Inlet | Pipe, *, retry: RetryPolicy) -> frozenset[Digest]:
    if not isinstance(source, Pipe):
        begin = b"".join(read_through(source.open, min(_BINARY, source.size), retry, what=source.name))
        if b"\0" not in begin and begin:
            return _of_lock(source, retry)
    plain = plain_of(source, retry=retry)
    with ExitStack() as opened:
        if isinstance(plain, Pipe):
            return _of_archive(Ahead(plain.chunks()), plain.name)
        return _of_archive(opened.enter_context(closing(Reading(plain, retry=retry))), plain.name)


def _of_lock(source: Inlet, retry: RetryPolicy) -> frozenset[Digest]:
    if source.size > MAX_DOCUMENT:
        msg = f"{source.name} is no archive, and with {source.size} bytes too large for a lock"
        raise ManifestInvalid(msg, hint="name an archive of ci-modelcache export, or a modelcache.lock")
    data = b"".join(read_through(source.open, source.size, retry, what=source.name))
    lock = Lock.from_toml(data.decode(errors="replace"), where=source.name)
    return frozenset(file.sha256 for model in lock.models for file in model.files)


def _of_archive(stream: Ahead | Reading, what: str) -> frozenset[Digest]:
    paths: set[str] = set()
    sums = b""
    for found in read_members(stream, what):
        paths.add(found.path)
        if found.path == SUMS and found.size <= MAX_DOCUMENT:
            sums = stream.take(found.size)
    return frozenset(chain(_of_blobs(paths), _of_sums(sums, paths)))


def _of_blobs(paths: set[str]) -> Iterator[Digest]:
    return (Digest(blob[1]) for blob in map(BLOB.fullmatch, paths) if blob is not None)


def _of_sums(sums: bytes, paths: set[str]) -> Iterator[Digest]:
    lines = map(SUM.fullmatch, sums.decode(errors="replace").splitlines())
    return (Digest(line[1]) for line in lines if line is not None and line[2] in paths)
