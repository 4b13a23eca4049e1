"""The only module that compares a body with the sums that its writer has of it from an earlier reading."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ci_modelcache.errors import DigestMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from mmap import mmap

SPAN = 16 * 1024 * 1024
"""Bytes that each sum is of, but the last, which is of what is left: those of a leaf, and of a part of an upload."""


def check_sums(sums: Sequence[bytes], size: int) -> None:
    """Raise `ValueError` unless *sums* can be those of *size* bytes: none at all, or one for each `SPAN` (of no bytes: one)."""
    if sums and len(sums) != max(1, -(-size // SPAN)):
        msg = f"{len(sums)} sums of {size} bytes"
        raise ValueError(msg)


def sum_of(data: bytes | mmap, sums: Sequence[bytes], *, what: str) -> bytes:
    """The SHA-256 of *data*, each `SPAN` of which must have its own of *sums*: raises `DigestMismatch` about *what*; without *sums* nothing is compared."""
    whole = hashlib.sha256(data).digest()
    if len(sums) == 1:
        _check(whole, sums[0], what, 0)
        return whole
    for number, expected in enumerate(sums):
        with memoryview(data) as view, view[number * SPAN : (number + 1) * SPAN] as span:
            actual = hashlib.sha256(span).digest()
        _check(actual, expected, what, number)
    return whole


def _check(actual: bytes, expected: bytes, what: str, number: int) -> None:
    if actual != expected:
        place = f"{what}, from byte {number * SPAN}" if number else what
        raise DigestMismatch(place, expected=expected.hex(), actual=actual.hex())


def summed(chunks: Iterable[bytes], sums: Sequence[bytes], *, size: int, what: str) -> Iterator[bytes]:
    """
    Pass *chunks* on, *size* bytes in all, and raise `DigestMismatch` about *what* instead of ending when they have not these *sums*.

    Without *sums* nothing is compared.
    """
    check_sums(sums, size)
    return _compared(chunks, sums, what) if sums else iter(chunks)


def _compared(chunks: Iterable[bytes], sums: Sequence[bytes], what: str) -> Iterator[bytes]:
    hasher, room, number = hashlib.sha256(), SPAN, 0
    for chunk in chunks:
        rest = memoryview(chunk)
        while len(rest) >= room:
            hasher.update(rest[:room])
            _check(hasher.digest(), sums[number], what, number)
            rest = rest[room:]
            hasher, room, number = hashlib.sha256(), SPAN, number + 1
        hasher.update(rest)
        room -= len(rest)
        yield chunk
    if number < len(sums):
        _check(hasher.digest(), sums[number], what, number)
